# purpose: upstream's validation suite and oci-runtime-tool, built; the tree stays, its tests run from there
# inputs: RUNTIME_TOOLS_FROM RUNTIME_TOOLS_URL RUNTIME_TOOLS_REF RUNTIME_TOOLS_SHA256 RUNTIME_TOOLS_SUMS
# check: test -x /opt/labkit/src/runtime-tools/runtimetest && oci-runtime-tool --version
# needs: none
# builds: toolchain go
take runtime-tools "$RUNTIME_TOOLS_FROM" "$RUNTIME_TOOLS_URL" "$RUNTIME_TOOLS_REF" "$RUNTIME_TOOLS_SHA256" \
  "$RUNTIME_TOOLS_SUMS"
test -d "$taken/tree" || fail "$RUNTIME_TOOLS_URL is not source code"
go_here "$taken/tree" github.com/opencontainers/runtime-tools
make tool
make -j "$(nproc)" runtimetest validation-executables
publish oci-runtime-tool /usr/local/bin/oci-runtime-tool
keep runtime-tools
