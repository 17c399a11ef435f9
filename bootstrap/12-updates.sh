# purpose: the distribution's updates
# inputs: none
# check: are_packages_whole
# needs: none
if test "$LAB_FAMILY" = debian; then
  with_packages upgrade --with-new-pkgs
else
  with_packages upgrade --refresh
fi
