# purpose: buildah, from the distribution
# inputs: PACKAGES_BUILDAH
# check: buildah --version
# needs: none
# shellcheck disable=SC2086
install_packages $PACKAGES_BUILDAH
