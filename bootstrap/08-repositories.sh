# purpose: the repositories that the distribution's own leave out packages to: EPEL, and CRB, which that needs
# inputs: PACKAGES_REPOSITORIES
# check: are_installed "$PACKAGES_REPOSITORIES"
# needs: none
# shellcheck disable=SC2086
install_packages $PACKAGES_REPOSITORIES
if have crb; then # of epel-release
  crb enable
else
  dnf config-manager --set-enabled crb
fi
