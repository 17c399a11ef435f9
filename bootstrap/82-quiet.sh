# purpose: no package timers or disk maintenance that start during a run
# inputs: none
# check: systemctl is-enabled apt-daily.timer | grep -q masked
# on: build cloud box cloud-box
# A reload for each would take seconds under emulation; the machine boots again after this anyway.
systemctl --no-reload mask apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer \
  e2scrub_reap.service fstrim.timer man-db.timer motd-news.timer unattended-upgrades.service dnf-makecache.timer \
  fwupd-refresh.timer
