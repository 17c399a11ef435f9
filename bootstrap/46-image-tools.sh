# purpose: oci-image-tool: the distribution's, or built from source
# inputs: IMAGE_TOOLS_FROM IMAGE_TOOLS_URL IMAGE_TOOLS_REF IMAGE_TOOLS_SHA256 IMAGE_TOOLS_SUMS PACKAGES_IMAGE_TOOLS
# check: oci-image-tool --version
# needs: none
# builds: toolchain go
if test "$IMAGE_TOOLS_FROM" = package; then
  # shellcheck disable=SC2086
  install_packages $PACKAGES_IMAGE_TOOLS
  withdraw /usr/local/bin/oci-image-tool
else
  take image-tools "$IMAGE_TOOLS_FROM" "$IMAGE_TOOLS_URL" "$IMAGE_TOOLS_REF" "$IMAGE_TOOLS_SHA256" "$IMAGE_TOOLS_SUMS"
  if test -e "$taken/program"; then
    publish "$taken/program" /usr/local/bin/oci-image-tool
    rm -rf "$taken"
  else
    go_here "$taken/tree" github.com/opencontainers/image-tools
    make tool
    publish oci-image-tool /usr/local/bin/oci-image-tool
    keep image-tools
  fi
fi
