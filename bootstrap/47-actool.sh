# purpose: actool: builds and validates images for rkt (ACI); built from source
# inputs: ACTOOL_FROM ACTOOL_URL ACTOOL_REF ACTOOL_SHA256 ACTOOL_SUMS
# check: actool version
# needs: none
# builds: toolchain go
take actool "$ACTOOL_FROM" "$ACTOOL_URL" "$ACTOOL_REF" "$ACTOOL_SHA256" "$ACTOOL_SUMS"
program=$taken/program
if ! test -e "$program"; then
  go_here "$taken/tree" github.com/appc/spec
  go build -o "$program" ./actool
fi
publish "$program" /usr/local/bin/actool
rm -rf "$taken"
