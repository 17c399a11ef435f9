# purpose: Go: the distribution's where it is new enough, else the official archive or a given one
# inputs: GO_FROM GO_URL GO_REF GO_SHA256 GO_SUMS GO_LEAST PACKAGES_GO PACKAGES_JQ
# check: go version
# needs: none
if test "$GO_FROM" = package; then
  # shellcheck disable=SC2086
  install_packages $PACKAGES_GO
  rm -rf "$lab/go"
  for name in go gofmt; do
    withdraw "/usr/local/bin/$name"
  done
else
  take go "$GO_FROM" "$GO_URL" "$GO_REF" "$GO_SHA256" "$GO_SUMS"
  test -x "$taken/tree/bin/go" || fail "$GO_URL is not an archive of Go: it has no bin/go"
  rm -rf "$lab/go"
  mv "$taken/tree" "$lab/go"
  rm -rf "$taken"
  for name in go gofmt; do
    printf '#!/bin/sh\nexec %s "$@"\n' "$lab/go/bin/$name" >"$cache/$name"
    publish "$cache/$name" "/usr/local/bin/$name"
  done
fi
version=$(GOTOOLCHAIN=local go version)
echo "$version"
version=${version#go version go}
version=${version%% *}
if test -n "$GO_LEAST" && ! printf '%s\n' "$GO_LEAST" "$version" | sort -V -C; then
  fail "Go $version is too old: what is built here needs $GO_LEAST"
fi
