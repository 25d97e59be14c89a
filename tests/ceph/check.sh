#!/bin/bash
# The tests of runs in S3 against a Ceph of this machine: `make ceph-check`, with Debian's packages
# ceph-mon, ceph-osd, ceph-common and radosgw. It lives in memory, on loopback, for two minutes.
set -euo pipefail
cd -- "$(dirname -- "$0")/../.."

python=${PYTHON:-.venv/bin/python}
address=127.0.0.1:17480
for program in ceph-mon ceph-osd radosgw radosgw-admin; do
    if ! command -v "$program" >/dev/null; then
        echo "ceph-check: there is no $program; apt-get install ceph-mon ceph-osd ceph-common radosgw" >&2
        exit 1
    fi
done

folder=$(mktemp -d)
clean_up() {
    for pid in "$folder"/*.pid; do
        [ ! -e "$pid" ] || kill -KILL "$(<"$pid")" 2>/dev/null || true
    done
    rm -rf "$folder"
}
trap clean_up EXIT

export CEPH_CONF=$folder/ceph.conf
cluster=$(<"/proc/sys/kernel/random/uuid")
disk=$(<"/proc/sys/kernel/random/uuid")
cat >"$CEPH_CONF" <<END
[global]
fsid = $cluster
mon_host = [v2:127.0.0.1:13300,v1:127.0.0.1:16789]
public_addr = 127.0.0.1
auth_cluster_required = none
auth_service_required = none
auth_client_required = none
ms_mon_client_mode = crc
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_pg_num = 8
osd_pool_default_pg_autoscale_mode = off
mon_allow_pool_size_one = true
mon_max_pg_per_osd = 1000
osd_crush_chooseleaf_type = 0
osd_objectstore = memstore
memstore_device_bytes = 1073741824
mon_data = $folder/mon
osd_data = $folder/osd
rgw_data = $folder/rgw
keyring = $folder/keyring
run_dir = $folder
log_file = $folder/\$name.\$pid.log
[client]
rgw_frontends = beast endpoint=$address
END
mkdir "$folder/mon" "$folder/osd" "$folder/rgw"
{
    ceph-authtool --create-keyring "$folder/keyring" --gen-key -n mon. --cap mon 'allow *'
    monmaptool --create --fsid "$cluster" --addv a "[v2:127.0.0.1:13300,v1:127.0.0.1:16789]" "$folder/map"
    ceph-mon --mkfs -i a --monmap "$folder/map" --keyring "$folder/keyring"
    ceph-mon -i a --pid-file "$folder/mon.pid"
    timeout 60 ceph osd new "$disk"
    ceph-osd -i 0 --mkfs --osd-uuid "$disk"
    ceph-osd -i 0 --pid-file "$folder/osd.pid"
    timeout 60 ceph osd crush set osd.0 1.0 root=default host=localhost
    timeout 120 radosgw -n client.admin --pid-file "$folder/rgw.pid"
    timeout 60 radosgw-admin user create --uid test --display-name test \
        --access-key key --secret-key secret-of-the-bucket
} >"$folder/start.out" 2>&1 || { cat "$folder/start.out"; exit 1; }

echo "Against $(ceph --version):"
SELFSTUDY_TEST_S3=$address "$python" -m pytest -n 0 \
    tests/test_objects.py tests/test_working_copy.py tests/test_remote_loop.py "$@"
