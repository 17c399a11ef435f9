# purpose: nothing that wakes up by itself during a run: no package timers, no disk maintenance
# inputs: none
# check: systemctl is-enabled apt-daily.timer | grep -q masked
for unit in apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service \
  fstrim.timer man-db.timer motd-news.timer unattended-upgrades.service dnf-makecache.timer fwupd-refresh.timer; do
  systemctl mask "$unit"
done
