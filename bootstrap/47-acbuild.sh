# purpose: acbuild: writes images for rkt (ACI), line by line; built from source
# inputs: ACBUILD_FROM ACBUILD_URL ACBUILD_REF ACBUILD_SHA256 ACBUILD_SUMS
# check: acbuild version
# needs: none
# builds: toolchain go
take acbuild "$ACBUILD_FROM" "$ACBUILD_URL" "$ACBUILD_REF" "$ACBUILD_SHA256" "$ACBUILD_SUMS"
program=$taken/program
if ! test -e "$program"; then
  go_here "$taken/tree" github.com/containers/build
  go build -o "$program" ./acbuild
fi
publish "$program" /usr/local/bin/acbuild
rm -rf "$taken"
