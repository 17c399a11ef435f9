# purpose: keep the clock right, which certificates and TLS depend on
# inputs: PACKAGES_TIME
# check: have chronyd
# needs: none
# shellcheck disable=SC2086
install_packages $PACKAGES_TIME
start_unit chrony.service chronyd.service
