# purpose: let the lab's user work in the source trees without sudo
# inputs: LAB_USER
# check: test -z "$(find /opt/labkit/src /opt/labkit/gopath ! -user "$(lab_user)" -print -quit)"
# needs: profile
chown -R "$(lab_user):" "$lab/src" "$lab/gopath"
