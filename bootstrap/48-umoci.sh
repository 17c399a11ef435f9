# purpose: umoci and skopeo: unpack images to bundles, copy images
# inputs: PACKAGES_UMOCI
# check: umoci --version && skopeo --version
# needs: none
# shellcheck disable=SC2086
install_packages $PACKAGES_UMOCI
