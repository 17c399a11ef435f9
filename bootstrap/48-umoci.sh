# purpose: umoci and skopeo: images to bundles, and images from anywhere
# inputs: PACKAGES_UMOCI
# check: umoci --version && skopeo --version
# needs: none
# shellcheck disable=SC2086
install_packages $PACKAGES_UMOCI
