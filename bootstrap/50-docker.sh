# purpose: Docker, from the distribution, with crun as a second runtime
# inputs: PACKAGES_DOCKER
# check: docker --version && have dockerd
# needs: none
if ! test -e /etc/docker/daemon.json; then
  mkdir -p /etc/docker
  echo '{"runtimes": {"crun": {"path": "crun"}}}' >/etc/docker/daemon.json
fi
# shellcheck disable=SC2086
install_packages $PACKAGES_DOCKER
start_unit docker.service
