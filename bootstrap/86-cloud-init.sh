# purpose: cloud-init, without a data source, gives each machine made of a box its own network and host keys
# inputs: none
# check: test -s /etc/cloud/cloud.cfg.d/99-labkit.cfg
# on: cloud-box
#
# https://docs.cloud-init.io/en/latest/reference/datasources/fallback.html
echo 'datasource_list: [None]' >/etc/cloud/cloud.cfg.d/99-labkit.cfg
