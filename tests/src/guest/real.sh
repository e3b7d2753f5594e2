# Sourced by init.sh in a guest that runs this machine's own programs: enters this machine's files, read-only and
# with a layer of the guest's own above them. `enter` is what the runner is started with.
for module in /modules/*; do insmod "$module"; done
mkdir -p /below /layer /entered
mount -t 9p -o trans=virtio,version=9p2000.L,msize=524288,cache=loose,ro root /below
mount -t tmpfs tmpfs /layer
mkdir /layer/upper /layer/work
mount -t overlay -o lowerdir=/below,upperdir=/layer/upper,workdir=/layer/work overlay /entered
for place in proc sys dev run; do
    mkdir -p "/entered/$place"
    mount -o rbind "/$place" "/entered/$place"
done
# Its own /tmp, and in it the files that a test's tools may stand on.
mount -t tmpfs -o mode=1777 tmpfs /entered/tmp
for place in /below/tmp/*; do
    if [ -d "$place" ]; then
        mkdir "/entered/tmp/${place##*/}"
        mount --bind "$place" "/entered/tmp/${place##*/}"
    fi
done
rm -rf /entered/root/.claude* /entered/home/dev /entered/opt/bin
mkdir -p /entered/home/dev /entered/opt/bin
for program in lazaret kernel-guest shadow-server benign-server mcp-client; do cp "/bin/$program" /entered/usr/bin/; done
cp /real-programs /entered/
enter="chroot /entered"
