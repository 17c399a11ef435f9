# purpose: git, make and a compiler
# inputs: PACKAGES_TOOLCHAIN
# check: have git make gcc pkg-config
# needs: none
# shellcheck disable=SC2086
install_packages $PACKAGES_TOOLCHAIN $PACKAGES_DOWNLOAD
