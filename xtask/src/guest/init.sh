#!/bin/busybox sh
# The first program of a Debian guest or host: makes the machine usable, says
# what it is, then runs a script or a shell. Its end is the machine's end.
# Where devices bring their own memory even the console waits for this, and the
# kernel could not open it.
if [ -e /lib/modules/virtio_bounce.ko ]; then
    /bin/busybox insmod /lib/modules/virtio_bounce.ko
    [ -t 0 ] || exec </dev/console >/dev/console 2>&1
fi
/bin/busybox mkdir -p /proc /sys /dev /tmp /run /root /mnt /usr
/bin/busybox --install -s /bin
export PATH=/bin HOME=/root
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev 2>/dev/null
mkdir -p /dev/pts
mount -t devpts pts /dev/pts 2>/dev/null
mount -t tmpfs tmp /tmp
mount -t tmpfs run /run
hostname -F /etc/hostname
ln -s /bin /usr/bin
ln -s /proc/mounts /etc/mtab

# A realm has this device; only then does its driver's module load.
realm=/sys/devices/platform/arm-cca-dev
for module in $(cat /lib/modules/order 2>/dev/null); do
    [ $module = virtio_bounce ] && continue
    case $module in tsm_report|arm_cca_guest) [ -e $realm ] || continue ;; esac
    insmod /lib/modules/$module.ko
done
mount -t configfs config /sys/kernel/config 2>/dev/null

ip link set lo up
if [ -e /sys/class/net/eth0 ]; then
    # A neighbour's number comes on the kernel's command line.
    address=10.0.2.$((15 + ${neighbour:-0}))
    ip address add $address/24 dev eth0
    ip link set eth0 up
    ip route add default via 10.0.2.2
    network="network eth0, $address; 10.0.2.2 answers"
fi

# A host that attacks looks for this marker in all memory that it can read. It
# was told neither here nor there: only its digits lie in the ramdisk. It is in
# a file, in the memory of a process, and on its way through registers.
if [ -e /etc/bouncer/marker ]; then
    marker=$(printf "$(sed 's/../\\x&/g' /etc/bouncer/marker)")
    printf %s "$marker" >/run/marker
    sh -c 'while :; do [ "$0" = "$0" ] || exit; done' "$marker" &
fi

# A neighbour has nobody at its console. It serves the network to its end, or
# does what the kernel's command line says.
if [ -n "$neighbour" ]; then
    dmesg -n 1
    echo "neighbour $neighbour: ${network:-no network}"
    [ -n "$beside" ] && eval "exec $beside"
    exec nc -ll -p 9000 -e sha256sum
fi

# What xtask has put in besides, say a driver to load.
[ -e /etc/bouncer/start ] && . /etc/bouncer/start

# From here on the console belongs to the user: the kernel's lines stay in
# dmesg. The word in /etc/bouncer/word, made for this run, tells xtask where
# the guest's own output begins and ends.
dmesg -n 1
word=$(cat /etc/bouncer/word)
finish() {
    end=$(cat /run/end 2>/dev/null || echo "$1")
    printf '\n@%s status %s\n' "$word" "$end"
    sync
    [ "$end" = reboot ] && exec busybox reboot -f
    exec busybox poweroff -f
}
# busybox's halt, poweroff and reboot (the shell has them built in) send
# SIGUSR1, SIGUSR2 and SIGTERM to a process of this name, and only if there is
# none to process 1, which waits for the user's commands and cannot hear. So
# this one ends the commands, and what comes then, as always, is finish. What
# has been printed still goes out: cat minds no signal but the last.
cat >/run/linuxrc <<'END'
#!/bin/sh
leave() {
    echo "$1" >/run/end
    kill -HUP -1
    kill -TERM -1
    sleep 10
    kill -KILL -1
}
trap 'leave 0' USR1 USR2
trap 'leave reboot' TERM
mkfifo /run/nothing
exec 3<>/run/nothing
while :; do read -r nothing <&3; done
END
chmod +x /run/linuxrc
/run/linuxrc &

# A list of commands, byte by byte as they print. Through a pipe: nobody looks
# at a terminal, so nothing shall be laid out for one, nor prompt.
commands() {
    stty -opost -echo </dev/console
    printf '\n@%s begin\n' "$word"
    cd /root
    { "$@" 2>&1; echo $? >/run/status; } 2>/dev/null | (
        trap '' HUP TERM
        exec cat
    )
    finish "$(cat /run/status 2>/dev/null)"
}
case $(cat /etc/bouncer/how) in
script) commands sh /etc/bouncer/script </dev/null ;;
# The terminal's layer makes the end of the input from Ctrl-D.
lines) commands sh </dev/console ;;
esac

kind="an ordinary machine, for all it knows"
if grep -q bouncer, /proc/device-tree/hypervisor/compatible 2>/dev/null; then
    kind="bouncer's host"
elif [ -e $realm ]; then
    kind="a realm (RSI): its memory is its own"
elif dmesg | grep -q 'created restricted DMA pool'; then
    kind="a protected guest (pKVM): its memory is its own"
fi
# The size of the terminal and its name come on the kernel's command line,
# and so in the environment.
[ -n "$LINES" ] && stty rows "$LINES" cols "$COLUMNS" </dev/console
printf '\n@%s begin\n' "$word"
echo "Linux $(uname -r), $(nproc) CPUs, $(free -m | sed -n 's/^Mem: *\([0-9]*\).*/\1/p') MiB: $kind"
disk=
[ -e /dev/vda ] && disk="disk /dev/vda $(($(cat /sys/class/block/vda/size) / 2)) KiB"
echo "${disk:-no disk}; ${network:-no network}"
echo "\`exit\` or \`poweroff\` ends it, Ctrl-] leaves at once"
cd /root
PS1="$(hostname):\w# " setsid cttyhack sh
finish 0
