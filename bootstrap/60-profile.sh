# purpose: PATH and GOPATH for login shells
# inputs: none
# check: test -s /etc/profile.d/labkit.sh && test -d /opt/labkit/gopath
# needs: none
mkdir -p "$lab/gopath" /etc/profile.d
cat >/etc/profile.d/labkit.sh.part <<'PROFILE'
# Written by labkit: Go, and what it installs.
export GOPATH="${GOPATH:-/opt/labkit/gopath}"
case ":$PATH:" in
  *:/opt/labkit/gopath/bin:*) ;;
  *) PATH="/usr/local/sbin:/usr/local/bin:$PATH:/usr/sbin:/sbin:/opt/labkit/gopath/bin" ;;
esac
PROFILE
mv /etc/profile.d/labkit.sh.part /etc/profile.d/labkit.sh
