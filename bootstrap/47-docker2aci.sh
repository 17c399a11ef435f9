# purpose: docker2aci: turns images of Docker into images for rkt (ACI); built from source
# inputs: DOCKER2ACI_FROM DOCKER2ACI_URL DOCKER2ACI_REF DOCKER2ACI_SHA256 DOCKER2ACI_SUMS
# check: docker2aci -version
# needs: none
# builds: toolchain go
take docker2aci "$DOCKER2ACI_FROM" "$DOCKER2ACI_URL" "$DOCKER2ACI_REF" "$DOCKER2ACI_SHA256" "$DOCKER2ACI_SUMS"
program=$taken/program
if ! test -e "$program"; then
  go_here "$taken/tree" github.com/appc/docker2aci
  go build -o "$program" .
fi
publish "$program" /usr/local/bin/docker2aci
rm -rf "$taken"
