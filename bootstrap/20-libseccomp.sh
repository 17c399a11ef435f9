# purpose: the headers that runtimes are built with
# inputs: PACKAGES_LIBSECCOMP
# check: pkg-config --exists libseccomp
# needs: toolchain
# shellcheck disable=SC2086
install_packages $PACKAGES_LIBSECCOMP
