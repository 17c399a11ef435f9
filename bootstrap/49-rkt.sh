# purpose: rkt, with two stage1 images: host (isolation by this system's systemd-nspawn) and fly (a chroot); built from source
# inputs: RKT_FROM RKT_URL RKT_REF RKT_SHA256 RKT_SUMS PACKAGES_AUTOTOOLS PACKAGES_RKT_LIBRARIES
# check: rkt version && test -e /usr/local/lib/rkt/stage1-images/stage1-host.aci && test -e /usr/local/lib/rkt/stage1-images/stage1-fly.aci
# needs: acbuild actool docker2aci
# builds: toolchain go
#
# The project ended in 2020. What has changed around it since then is mended in the tree that is built.

# mend FILE EXPRESSION TEXT: change a file with sed; TEXT is in it afterwards, or the tree is another one than thought.
mend() {
  sed -i "$2" "$1" || fail "$RKT_URL has no $1: it is not a tree of rkt"
  grep -qF "$3" "$1" || fail "$1 of $RKT_URL is not as it is in rkt 1.30: it cannot be mended for this system"
}

take rkt "$RKT_FROM" "$RKT_URL" "$RKT_REF" "$RKT_SHA256" "$RKT_SUMS"
test -d "$taken/tree" || fail "$RKT_URL is not source code"
test -n "$PACKAGES_RKT_LIBRARIES" || fail 'the platform.toml of this system names no packages for rkt-libraries'
# shellcheck disable=SC2086
install_packages $PACKAGES_AUTOTOOLS $PACKAGES_RKT_LIBRARIES
(
  export PATH="$lab/go/bin:$PATH" GOCACHE="$cache/go-build" GOTOOLCHAIN=local GO111MODULE=off GOFLAGS=
  cd "$taken/tree"
  # GNU make 4.3: += to an empty variable adds no space any more.
  mend makelib/misc.mk 's/^\(.*\$(eval [A-Z_]*_SPACE_\) += *)/\1 := $$() $$())/' ':= $$() $$())'
  # systemd 254 starts processes by a program of its own, and the stage1 host takes its systemd from this system.
  executor='if bin, err := common.LookupPath("systemd-executor", "/usr/lib/systemd:/lib/systemd"); err == nil { assets = append(assets, proj2aci.GetAssetString(bin, bin)) }'
  mend stage1/init/init.go "s|^\treturn proj2aci.PrepareAssets(assets, .*|\t$executor\n&|" systemd-executor
  ./autogen.sh
  ./configure --prefix=/usr/local --with-stage1-flavors=host,fly --disable-tpm --disable-sdjournal
  make -j "$(nproc)"
)
for image in host fly; do
  publish "$taken"/tree/build-rkt-*/target/bin/stage1-$image.aci /usr/local/lib/rkt/stage1-images/stage1-$image.aci
done
publish "$taken"/tree/build-rkt-*/target/bin/rkt /usr/local/bin/rkt
rm -rf "$taken"
