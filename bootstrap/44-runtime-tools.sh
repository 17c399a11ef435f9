# purpose: upstream's validation suite and oci-runtime-tool, built; the tests run from the tree
# inputs: RUNTIME_TOOLS_FROM RUNTIME_TOOLS_URL RUNTIME_TOOLS_REF RUNTIME_TOOLS_SHA256 RUNTIME_TOOLS_SUMS RUNTIME_TOOLS_OLDER
# check: oci-runtime-tool --version && for tree in "" $(older_refs); do test -x "$lab/src/runtime-tools${tree:+-$tree}/runtimetest" || return; done
# needs: none
# builds: toolchain go
#
# RUNTIME_TOOLS_OLDER: lines of RUNTIME VERSION REF. If that runtime is installed in a version before VERSION, the tree
# is also built at REF, as runtime-tools-REF.
build_tree() {
  take "$1" "$RUNTIME_TOOLS_FROM" "$RUNTIME_TOOLS_URL" "$2" "$RUNTIME_TOOLS_SHA256" "$RUNTIME_TOOLS_SUMS"
  test -d "$taken/tree" || fail "$RUNTIME_TOOLS_URL is not source code"
  (
    go_here "$taken/tree" github.com/opencontainers/runtime-tools
    make tool
    make -j "$(nproc)" runtimetest validation-executables
  )
}

history=yes # reports name the ref as git describes it
build_tree runtime-tools "$RUNTIME_TOOLS_REF"
publish "$taken/tree/oci-runtime-tool" /usr/local/bin/oci-runtime-tool
keep runtime-tools
rm -rf "$lab"/src/runtime-tools-*
for older in $(older_refs); do
  build_tree "runtime-tools-$older" "$older"
  keep "runtime-tools-$older"
done
