"""An MCP server that tries to get out of its cage and tells what came of each try. Standard library only.

Each try is a function that raises OSError where it is refused, and returns what it got where it is not.
`attack` runs them all; each of the other tools is one thing that must be called on its own."""

import ctypes
import errno
import json
import mmap
import os
import resource
import signal
import socket
import struct
import subprocess
import sys
import time

libc = ctypes.CDLL(None, use_errno=True)
X86 = os.uname().machine == "x86_64"
TRIES = {}


def attempt(function):
    TRIES[function.__name__] = function
    return function


def call(result):
    """The result of a C function, or its error."""
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def system_call(x86, others, *arguments):
    return call(libc.syscall(x86 if X86 else others, *arguments))


def in_child(function):
    """Runs it in a process of its own, which it may change as it likes; raises what it raised."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            said = json.dumps([0, repr(function())])
        except OSError as e:
            said = json.dumps([e.errno or 1, ""])
        except BaseException as e:
            said = json.dumps([0, "died: " + repr(e)])
        os.write(writer, said.encode())
        os._exit(0)
    os.close(writer)
    said = os.fdopen(reader).read()
    _, status = os.waitpid(child, 0)
    if not said:
        raise OSError(errno.EPERM, "killed with status %d" % status)
    number, got = json.loads(said)
    if number:
        raise OSError(number, os.strerror(number))
    return got


# --- files


def write(path):
    with open(path, "w") as file:
        file.write("x")
    return "wrote " + path


@attempt
def write_to_the_root():
    return write("/x")


@attempt
def write_to_the_image():
    return write(os.path.abspath(__file__))


@attempt
def write_to_etc_hosts():
    with open("/etc/hosts", "a") as file:
        file.write("127.0.0.1 example.com\n")


@attempt
def write_to_a_program():
    return write("/usr/bin/python3")


@attempt
def write_to_dev():
    return write("/dev/x")


@attempt
def remove_a_file_of_the_image():
    os.unlink("/etc/passwd")


@attempt
def mount_a_tmpfs():
    call(libc.mount(b"none", b"/tmp", b"tmpfs", 0, None))


@attempt
def mount_proc():
    os.makedirs("/tmp/proc", exist_ok=True)
    call(libc.mount(b"proc", b"/tmp/proc", b"proc", 0, None))


@attempt
def remount_the_root_writable():
    call(libc.mount(None, b"/", None, 32, None))


@attempt
def unmount_the_mask_of_proc():
    call(libc.umount2(b"/proc/sys", 2))


@attempt
def mount_by_the_new_calls():
    system_call(430, 430, b"tmpfs", 0)  # fsopen


@attempt
def change_the_root():
    os.chroot("/tmp")


@attempt
def make_a_device():
    os.mknod("/tmp/disk", 0o600 | 0o060000, os.makedev(254, 0))


@attempt
def open_the_hosts_memory():
    open("/dev/mem", "rb")


@attempt
def open_the_hosts_disk():
    for name in ["vda", "sda", "nvme0n1", "dm-0", "fuse", "kvm", "kmsg", "net/tun"]:
        if os.path.exists("/dev/" + name):
            return "there is /dev/" + name
    raise FileNotFoundError(errno.ENOENT, "no disk")


@attempt
def run_a_program_from_tmp():
    with open("/tmp/x.sh", "w") as file:
        file.write("#!/bin/sh\necho ran\n")
    os.chmod("/tmp/x.sh", 0o755)
    return subprocess.check_output(["/tmp/x.sh"])


@attempt
def run_a_program_from_shared_memory():
    with open("/dev/shm/x.sh", "w") as file:
        file.write("#!/bin/sh\necho ran\n")
    os.chmod("/dev/shm/x.sh", 0o755)
    return subprocess.check_output(["/dev/shm/x.sh"])


@attempt
def map_tmp_as_code():
    with open("/tmp/code", "wb") as file:
        file.write(b"\xc3" * 4096)
    with open("/tmp/code", "rb") as file:
        mmap.mmap(file.fileno(), 4096, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_EXEC)


@attempt
def read_the_hosts_shadow_file():
    return open("/etc/shadow").read()


# --- processes and privileges


@attempt
def trace_the_init():
    call(libc.ptrace(16, 1, None, None))


@attempt
def be_traced():
    return in_child(lambda: call(libc.ptrace(0, 0, None, None)))


@attempt
def read_another_process():
    buffer = ctypes.create_string_buffer(8)
    vector = struct.pack("PN", ctypes.addressof(buffer), 8)
    system_call(310, 270, os.getppid(), vector, 1, vector, 1, 0)


@attempt
def see_the_hosts_processes():
    seen = [open("/proc/%s/comm" % pid).read().strip() for pid in os.listdir("/proc") if pid.isdigit()]
    ours = {"docker-init", "tini", "python3", "python3.11", "cage-init"}
    strange = [name for name in seen if name not in ours]
    if not strange and os.getpid() < 100:
        raise PermissionError(errno.EACCES, "none is seen")
    return strange


@attempt
def signal_everything():
    """Whatever is signalled is in here: it must not be a process of the host."""
    for pid in range(200, 70000):
        try:
            os.kill(pid, 0)
            return "there is a process %d" % pid
        except ProcessLookupError:
            pass
    raise ProcessLookupError(errno.ESRCH, "none is there")


@attempt
def become_root():
    return in_child(lambda: os.setuid(0))


@attempt
def gain_by_a_setuid_program():
    """`su` and its like are set-uid root in the image."""
    for path in ["/usr/bin/su", "/bin/su", "/usr/bin/passwd", "/usr/bin/mount"]:
        if os.path.exists(path) and os.stat(path).st_mode & 0o4000:
            break
    else:
        raise FileNotFoundError(errno.ENOENT, "none is there")
    child = subprocess.Popen([path], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    effective = set()
    try:
        for _ in range(50):
            try:
                lines = open("/proc/%d/status" % child.pid).read().splitlines()
            except OSError:
                break
            effective |= {line.split()[2] for line in lines if line.startswith("Uid:")}
            if child.poll() is not None:
                break
            time.sleep(0.01)
    finally:
        child.kill()
        child.wait()
    if "0" in effective:
        return "it ran as root"
    raise PermissionError(errno.EPERM, "it stayed %s" % sorted(effective))


@attempt
def make_a_setuid_program():
    """Set-uid for oneself is allowed to anybody; on a nosuid file system it means nothing."""
    flags = os.statvfs("/tmp").f_flag
    if flags & os.ST_NOSUID and flags & os.ST_NODEV:
        raise PermissionError(errno.EPERM, "it means nothing")
    return "set-uid means something in /tmp"


@attempt
def have_any_capability():
    lines = dict(line.split(":\t") for line in open("/proc/self/status").read().splitlines() if ":\t" in line)
    sets = {name: lines[name] for name in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"]}
    if all(int(value, 16) == 0 for value in sets.values()):
        raise PermissionError(errno.EPERM, "none")
    return sets


@attempt
def drop_no_new_privileges():
    call(libc.prctl(38, 0, 0, 0, 0))


@attempt
def unshare_a_user_namespace():
    return in_child(lambda: call(libc.unshare(0x10000000)))


@attempt
def unshare_a_network():
    return in_child(lambda: call(libc.unshare(0x40000000)))


@attempt
def unshare_mounts():
    return in_child(lambda: call(libc.unshare(0x00020000)))


@attempt
def clone_into_a_user_namespace():
    def clone():
        child = system_call(56, 220, 0x10000000 | signal.SIGCHLD, None, None, None, None)
        if child == 0:
            os._exit(0)
        os.waitpid(child, 0)
        return "there is one"

    return in_child(clone)


@attempt
def clone3_into_a_user_namespace():
    def clone():
        arguments = struct.pack("8Q", 0x10000000, 0, 0, 0, signal.SIGCHLD, 0, 0, 0)
        child = system_call(435, 435, arguments, len(arguments))
        if child == 0:
            os._exit(0)
        os.waitpid(child, 0)
        return "there is one"

    return in_child(clone)


@attempt
def enter_the_inits_namespaces():
    with open("/proc/1/ns/net") as file:
        call(libc.setns(file.fileno(), 0))


@attempt
def raise_a_limit():
    system_call(160, 164, resource.RLIMIT_NOFILE, struct.pack("QQ", 1 << 20, 1 << 20))


@attempt
def leave_a_core():
    if resource.getrlimit(resource.RLIMIT_CORE) == (0, 0):
        raise PermissionError(errno.EPERM, "none is left")
    return "cores are left"


@attempt
def run_before_others():
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))


@attempt
def set_the_clock():
    time.clock_settime(time.CLOCK_REALTIME, 0)


@attempt
def set_the_host_name():
    call(libc.sethostname(b"owned", 5))


# --- the kernel


@attempt
def sysrq():
    return write("/proc/sysrq-trigger")


@attempt
def write_a_kernel_setting():
    return write("/proc/sys/kernel/core_pattern")


@attempt
def write_to_sysfs():
    return write("/sys/kernel/uevent_helper")


@attempt
def write_to_the_cgroups():
    for directory, _, files in os.walk("/sys/fs/cgroup"):
        for name in ["cgroup.procs", "release_agent", "pids.max", "memory.max", "memory.limit_in_bytes"]:
            if name in files:
                return write(os.path.join(directory, name))
    raise FileNotFoundError(errno.ENOENT, "there are none")


@attempt
def raise_the_oom_killers_protection():
    with open("/proc/self/oom_score_adj", "w") as file:
        file.write("-1000")


@attempt
def read_the_kernels_log():
    call(libc.klogctl(3, ctypes.create_string_buffer(4096), 4096))


@attempt
def read_the_kernels_memory():
    return open("/proc/kcore", "rb").read(4)


@attempt
def read_the_keys():
    if open("/proc/keys").read():
        return "there are keys"
    raise PermissionError(errno.EACCES, "it is masked")


@attempt
def use_the_kernel_keyring():
    system_call(248, 217, b"user", b"hostile", b"x", 1, -3)  # add_key, to the session's


@attempt
def ask_the_kernel_keyring():
    system_call(250, 219, 0, -4, 0)  # keyctl: the id of the user's


@attempt
def io_uring():
    system_call(425, 425, 1, ctypes.create_string_buffer(256))


@attempt
def bpf():
    system_call(321, 280, 0, ctypes.create_string_buffer(128), 128)


@attempt
def perf_event_open():
    attributes = struct.pack("IIQ", 1, 112, 0) + bytes(96)
    system_call(298, 241, attributes, 0, -1, -1, 0)


@attempt
def userfaultfd():
    system_call(323, 282, 0)


@attempt
def load_a_module():
    system_call(175, 105, b"", 0, b"")


@attempt
def load_another_kernel():
    system_call(246, 104, 0, 0, None, 0)


@attempt
def reboot():
    system_call(169, 142, 0xFEE1DEAD, 672274793, 0, None)  # only turns Ctrl-Alt-Del off


@attempt
def open_a_file_by_its_handle():
    system_call(304, 265, -100, ctypes.create_string_buffer(64), 0)


@attempt
def swap_on():
    system_call(167, 224, b"/tmp/x", 0)


@attempt
def quota():
    system_call(179, 60, 0x800001 << 8, None, 0, None)


# --- the network


def connect(host, port, kind=socket.SOCK_STREAM):
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, kind) as outside:
        outside.settimeout(5)
        outside.connect((host, port))
        if kind == socket.SOCK_DGRAM:
            outside.send(b"x")
        return "reached %s:%d" % (host, port)


@attempt
def reach_the_internet():
    return connect("1.1.1.1", 443)


@attempt
def reach_the_internet_by_udp():
    return connect("1.1.1.1", 53, socket.SOCK_DGRAM)


@attempt
def reach_the_internet_by_ipv6():
    return connect("2606:4700:4700::1111", 443)


@attempt
def reach_the_metadata():
    return connect("169.254.169.254", 80)


@attempt
def reach_the_metadata_by_ipv6():
    return connect("fd00:ec2::254", 80)


@attempt
def reach_the_bridge():
    return connect("172.17.0.1", 2375)


@attempt
def resolve_a_name():
    try:
        return socket.getaddrinfo("example.com", 443)
    except socket.gaierror as e:
        raise OSError(errno.EHOSTUNREACH, str(e)) from e


@attempt
def a_raw_socket():
    socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)


@attempt
def a_packet_socket():
    socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)


@attempt
def a_vsock():
    socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM, 0)


@attempt
def a_crypto_socket():
    socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET, 0)


@attempt
def give_itself_an_address():
    import fcntl

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as inside:
        request = struct.pack("16sHH4s8s", b"lo:9", socket.AF_INET, 0, socket.inet_aton("10.9.9.9"), b"")
        fcntl.ioctl(inside, 0x8916, request)


@attempt
def have_another_interface():
    up = []
    for _, name in socket.if_nameindex():
        try:
            flags = int(open("/sys/class/net/%s/flags" % name).read(), 16)
        except OSError:
            flags = 1
        if name != "lo" and flags & 1:
            up.append(name)
    if up:
        return up
    raise OSError(errno.ENODEV, "there is none")


@attempt
def reach_docker():
    for path in ["/var/run/docker.sock", "/run/docker.sock", "/run/containerd/containerd.sock"]:
        try:
            with socket.socket(socket.AF_UNIX) as engine:
                engine.connect(path)
                return "reached " + path
        except FileNotFoundError:
            pass
    raise FileNotFoundError(errno.ENOENT, "none is there")


def abstract():
    """Abstract sockets belong to a network namespace: none of the host's is seen here."""
    names = [line.split()[7] for line in open("/proc/net/unix").read().splitlines()[1:] if len(line.split()) > 7]
    return [name for name in names if name.startswith("@")]


@attempt
def see_abstract_sockets():
    if abstract():
        return abstract()
    raise FileNotFoundError(errno.ENOENT, "none is there")


# --- what is called on its own


def targets(arguments):
    """Connects to each `HOST:PORT`, says what it is told to, and reports what came back or why nothing did."""
    report = {}
    for target in arguments["targets"]:
        host, port = target.rsplit(":", 1)
        try:
            with socket.create_connection((host, int(port)), 10) as outside:
                outside.sendall(arguments.get("say", "hello").encode())
                outside.shutdown(socket.SHUT_WR)
                said = b""
                while chunk := outside.recv(4096):
                    said += chunk
                report[target] = "said " + said.decode()
        except socket.gaierror as e:
            report[target] = "refused: EAI " + e.strerror
        except OSError as e:
            report[target] = "refused: " + (errno.errorcode.get(e.errno, "?") if e.errno else str(e))
    return report


def listen_first(arguments):
    """Listens where its ways out begin, so that they would be its own."""
    try:
        with socket.create_server((arguments["host"], arguments["port"])):
            return {"listen": "DONE"}
    except OSError as e:
        return {"listen": "refused: " + errno.errorcode.get(e.errno, "?")}


def fork_bomb(_):
    children = []
    try:
        while len(children) < 5000:
            child = os.fork()
            if child == 0:
                time.sleep(600)
                os._exit(0)
            children.append(child)
        return {"children": len(children), "ended": "DONE"}
    except OSError as e:
        return {"children": len(children), "ended": "refused: " + errno.errorcode.get(e.errno, "?")}
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)
        for child in children:
            os.waitpid(child, 0)


def fill(directory):
    written = 0
    path = directory + "/full"
    try:
        with open(path, "wb", buffering=0) as file:
            while written < 4 << 30:
                written += file.write(bytes(1 << 20))
        return [written, "DONE"]
    except OSError as e:
        return [written, "refused: " + errno.errorcode.get(e.errno, "?")]
    finally:
        if os.path.exists(path):
            os.unlink(path)


def fill_tmpfs(_):
    return {directory: fill(directory) for directory in ["/tmp", "/dev/shm"]}


def memory_bomb(_):
    kept = []
    while True:
        kept.append(bytearray(b"x") * (16 << 20))


def environment(arguments):
    return {name: os.environ.get(name) for name in arguments["names"]}


def attack(_):
    report = {}
    for name, function in TRIES.items():
        try:
            report[name] = "DONE: %r" % (function(),)
        except OSError as e:
            report[name] = "refused: " + errno.errorcode.get(e.errno, str(e))
        except BaseException as e:
            report[name] = "DONE: it was not tried: %r" % e
    return report


TOOLS = {
    function.__name__: function
    for function in [attack, targets, listen_first, fork_bomb, fill_tmpfs, memory_bomb, environment]
}

for line in sys.stdin:
    message = json.loads(line)
    if "id" not in message:
        continue
    method, parameters = message["method"], message.get("params", {})
    answer = {"jsonrpc": "2.0", "id": message["id"]}
    if method == "initialize":
        answer["result"] = {
            "protocolVersion": parameters["protocolVersion"],
            "capabilities": {"tools": {}},
            "serverInfo": {"name": "hostile", "version": "1"},
        }
    elif method == "tools/list":
        schema = {"type": "object"}
        listed = [{"name": name, "description": name, "inputSchema": schema} for name in TOOLS]
        answer["result"] = {"tools": listed}
    elif method == "tools/call":
        text = json.dumps(TOOLS[parameters["name"]](parameters.get("arguments") or {}))
        answer["result"] = {"content": [{"type": "text", "text": text}]}
    elif method == "ping":
        answer["result"] = {}
    else:
        answer["error"] = {"code": -32601, "message": "no such method"}
    print(json.dumps(answer), flush=True)
