package live

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/napitune/napitune/detect/host"
)

func put(t testing.TB, root, name, text string) {
	t.Helper()
	path := filepath.Join(root, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func symlink(t testing.TB, target, path string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(target, path); err != nil {
		t.Fatal(err)
	}
}

// bothWays runs a test with openat2 and with the way of kernels that have none.
func bothWays(t *testing.T, root string, f func(t *testing.T, tree *files)) {
	t.Helper()
	for _, without := range []bool{false, true} {
		t.Run(fmt.Sprintf("without openat2 %t", without), func(t *testing.T) {
			tree, err := openFiles(root)
			if err != nil {
				t.Fatal(err)
			}
			tree.noOpenat2.Store(without)
			f(t, tree)
		})
	}
}

func TestFiles(t *testing.T) {
	root := t.TempDir()
	put(t, root, "sys/devices/pci0/net/eth0/mtu", "1500\n")
	put(t, root, "proc/empty", "")
	symlink(t, "../../devices/pci0/net/eth0", filepath.Join(root, "sys/class/net/eth0"))
	symlink(t, "../../../../..", filepath.Join(root, "sys/class/net/up"))
	large := strings.Repeat("0123456789abcde\n", scratchBytes/16*5/2)
	put(t, root, "proc/interrupts", large)
	put(t, root, "proc/exact", large[:scratchBytes])
	bothWays(t, root, func(t *testing.T, tree *files) {
		for name, want := range map[string]string{
			"sys/class/net/eth0/mtu": "1500\n", "proc/empty": "", "proc/interrupts": large, "proc/exact": large[:scratchBytes],
		} {
			got, err := tree.ReadFile(name)
			if err != nil || string(got) != want {
				t.Errorf("%s: %d bytes, %v; want %d", name, len(got), err, len(want))
			}
		}
		for _, name := range []string{"proc/none", "sys/class/net/eth1/mtu"} {
			if _, err := tree.ReadFile(name); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s: %v", name, err)
			}
		}
		for _, name := range []string{"/proc/empty", "../x", "", "proc/"} {
			if _, err := tree.ReadFile(name); !errors.Is(err, fs.ErrInvalid) {
				t.Errorf("%q: %v", name, err)
			}
		}
		if _, err := tree.ReadFile("proc"); err == nil {
			t.Error("a directory was read")
		}
		if target, err := tree.ReadLink("sys/class/net/eth0"); err != nil || target != "../../devices/pci0/net/eth0" {
			t.Errorf("link %q, %v", target, err)
		}
	})
}

// Neither way lets a symbolic link out of the root.
func TestFilesStayBelowRoot(t *testing.T) {
	outside := t.TempDir()
	put(t, outside, "secret", "secret")
	root := t.TempDir()
	put(t, root, "sys/x", "x")
	symlink(t, filepath.Join(outside, "secret"), filepath.Join(root, "sys/absolute"))
	relative, err := filepath.Rel(filepath.Join(root, "sys"), filepath.Join(outside, "secret"))
	if err != nil {
		t.Fatal(err)
	}
	symlink(t, relative, filepath.Join(root, "sys/relative"))
	bothWays(t, root, func(t *testing.T, tree *files) {
		m := &machine{files: tree}
		for _, name := range []string{"sys/absolute", "sys/relative"} {
			if data, err := tree.ReadFile(name); err == nil {
				t.Errorf("%s: read %q", name, data)
			}
			if err := m.writeFile(name, []byte("1")); err == nil {
				t.Errorf("%s: written", name)
			}
		}
	})
	if data, _ := os.ReadFile(filepath.Join(outside, "secret")); string(data) != "secret" {
		t.Errorf("the file outside now holds %q", data)
	}
}

// The tree obeys the rules of io/fs.
func TestFilesAsFS(t *testing.T) {
	root := t.TempDir()
	put(t, root, "proc/interrupts", "x\n")
	put(t, root, "sys/class/net/eth0/mtu", "1500\n")
	bothWays(t, root, func(t *testing.T, tree *files) {
		if err := fstest.TestFS(tree, "proc/interrupts", "sys/class/net/eth0/mtu"); err != nil {
			t.Error(err)
		}
	})
}

// What is read of this machine is what the os package reads.
func TestFilesOfThisMachine(t *testing.T) {
	tree, err := openFiles("/")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{
		"proc/cpuinfo", "proc/cmdline", "proc/sys/net/core/netdev_budget", "proc/net/protocols",
		"sys/devices/system/cpu/online", "sys/class/net/lo/mtu", "sys/class/net/lo/queues/rx-0/rps_cpus",
	} {
		want, err := os.ReadFile("/" + name)
		if errors.Is(err, fs.ErrNotExist) {
			t.Logf("%s is not here", name)
			continue
		}
		got, gotErr := tree.ReadFile(name)
		if err != nil || gotErr != nil || (name != "proc/cpuinfo" && !bytes.Equal(got, want)) || (len(got) == 0) != (len(want) == 0) {
			t.Errorf("%s: %q, %v; want %q, %v", name, got, gotErr, want, err)
		}
	}
	// Several pages of a seq file: sizes change, lines do not.
	got, err := tree.ReadFile("proc/kallsyms")
	if err == nil && (len(got) < 1<<20 || got[len(got)-1] != '\n') {
		t.Errorf("kallsyms: %d bytes", len(got))
	}
}

func TestWriteFile(t *testing.T) {
	root := t.TempDir()
	for _, name := range []string{"proc/sys/net/core/netdev_budget", "proc/irq/3/smp_affinity", "sys/class/net/eth0/threaded", "proc/interrupts", "etc/passwd"} {
		put(t, root, name, "123456789")
	}
	bothWays(t, root, func(t *testing.T, tree *files) {
		m := &machine{files: tree}
		for _, name := range []string{"proc/sys/net/core/netdev_budget", "proc/irq/3/smp_affinity", "sys/class/net/eth0/threaded"} {
			if err := m.writeFile(name, []byte("55\n")); err != nil {
				t.Error(err)
			}
			if got, _ := os.ReadFile(filepath.Join(root, name)); string(got) != "55\n456789" {
				t.Errorf("%s: %q was truncated or replaced", name, got)
			}
			put(t, root, name, "123456789")
		}
		for name, want := range map[string]error{
			"proc/interrupts": fs.ErrPermission, "etc/passwd": fs.ErrPermission, "proc/sys/../interrupts": fs.ErrPermission,
			"/proc/sys/net/core/netdev_budget": fs.ErrPermission, "systems/x": fs.ErrPermission, "proc/sysrq": fs.ErrPermission,
			"proc/sys/net/core/none": fs.ErrNotExist,
		} {
			err := m.writeFile(name, []byte("300\n"))
			if !errors.Is(err, want) || !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), `"300"`) {
				t.Errorf("%s: %v", name, err)
			}
			if strings.Count(err.Error(), name) != 1 {
				t.Errorf("names the path twice: %v", err)
			}
		}
		if _, err := os.Stat(filepath.Join(root, "proc/sys/net/core/none")); !errors.Is(err, fs.ErrNotExist) {
			t.Error("a file was created")
		}
		if err := m.writeFile("sys/class/net/eth0/threaded", nil); err == nil {
			t.Error("an empty write was taken")
		}
	})
}

func TestBusOfVirtio(t *testing.T) {
	root := t.TempDir()
	for name, target := range map[string]string{
		"virtio2":  "../../../devices/pci0000:00/0000:00:03.0/virtio2",
		"virtio10": "../../../devices/platform/a003e00.virtio_mmio/virtio10",
	} {
		symlink(t, target, filepath.Join(root, "sys/bus/virtio/devices", name))
	}
	tree, err := openFiles(root)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"virtio2": "0000:00:03.0", "virtio10": "virtio10", "virtio1": "virtio1"} {
		if got := tree.busOfVirtio(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}

const statTail = " S 2 0 0 0 -1 %d 0 0 0 0 13 45 0 0 20 0 1 0 3 0 0 18446744073709551615 0 0 0 0 0 0 0 2147483647 0 0 0 0 17 3 0 0 0 0 0 0 0 0 0 0 0 0 0\n"

func putProcess(t testing.TB, root, dir, comm string, flags int, args string) {
	t.Helper()
	put(t, root, dir+"/comm", comm+"\n")
	put(t, root, dir+"/stat", fmt.Sprintf("%s (%s)"+statTail, filepath.Base(dir), comm, flags))
	put(t, root, dir+"/status", "Name:\t"+comm+"\nCpus_allowed:\tf\nCpus_allowed_list:\t0-3\nMems_allowed:\t1\nVmRSS:\t   4711 kB\n")
	put(t, root, dir+"/cmdline", args)
}

func TestProcesses(t *testing.T) {
	root := t.TempDir()
	putProcess(t, root, "proc/17", "ksoftirqd/0", flagKernelThread, "")
	putProcess(t, root, "proc/230", "napi/eth0-8193", flagKernelThread, "")
	putProcess(t, root, "proc/700", "irqbalance", 0, "/usr/sbin/irqbalance\x00--foreground\x00")
	putProcess(t, root, "proc/701", "bash", 0, "bash\x00")
	putProcess(t, root, "proc/900", "qemu-kvm", 0, "qemu-kvm\x00-name\x00guest\x00")
	putProcess(t, root, "proc/900/task/900", "qemu-kvm", 0, "")
	putProcess(t, root, "proc/900/task/905", "vhost-900", flagUserWorker, "qemu-kvm\x00")
	put(t, root, "proc/950/comm", "tuned\n") // vanishes before its stat is read
	put(t, root, "proc/interrupts", "")
	put(t, root, "proc/self/comm", "irqbalance\n")
	tree, err := openFiles(root)
	if err != nil {
		t.Fatal(err)
	}
	got, err := tree.processes()
	if err != nil {
		t.Fatal(err)
	}
	want := map[int]host.Process{
		17:  {PID: 17, Comm: "ksoftirqd/0", CPU: 3, Ticks: 58, Allowed: "0-3"},
		230: {PID: 230, Comm: "napi/eth0-8193", CPU: 3, Ticks: 58, Allowed: "0-3"},
		700: {PID: 700, Comm: "irqbalance", Args: "/usr/sbin/irqbalance --foreground", CPU: 3, Ticks: 58, Allowed: "0-3", RSSKiB: 4711},
		905: {PID: 905, Comm: "vhost-900", CPU: 3, Ticks: 58, Allowed: "0-3"},
	}
	byPID := map[int]host.Process{}
	for _, p := range got {
		byPID[p.PID] = p
	}
	if diff := cmp.Diff(want, byPID); diff != "" || len(got) != len(want) {
		t.Errorf("%d processes (-want +got)\n%s", len(got), diff)
	}
}

// TestPinned: of the threads that may run on one CPU, the two busiest of each
// CPU are found; kernel threads and those of other affinity are not.
func TestPinned(t *testing.T) {
	root := t.TempDir()
	thread := func(pid, tid int, comm, allowed string, flags int) {
		dir := fmt.Sprintf("proc/%d/task/%d", pid, tid)
		putProcess(t, root, dir, comm, flags, "")
		put(t, root, dir+"/status", "Cpus_allowed_list:\t"+allowed+"\n")
		put(t, root, dir+"/stat", fmt.Sprintf("%d (%s)"+statTail, tid, comm, flags))
	}
	for pid, comm := range map[int]string{20: "haproxy", 30: "scylla", 40: "nvme_wq", 50: "qemu-kvm", 60: "kworker/3:1"} {
		put(t, root, fmt.Sprintf("proc/%d/comm", pid), comm+"\n")
	}
	thread(20, 20, "haproxy", "0-3", 0)
	thread(20, 21, "haproxy", "2", 0)
	thread(30, 31, "reactor-1", "2", 0)
	thread(30, 32, "reactor-2", "2", 0)
	thread(40, 40, "nvme_wq", "2", flagKernelThread)
	thread(50, 51, "CPU 0/KVM", "3", 0)
	thread(60, 60, "kworker/3:1", "3", 0)
	tree, err := openFiles(root)
	if err != nil {
		t.Fatal(err)
	}
	if list, err := tree.processes(); err != nil || len(list) != 0 {
		t.Errorf("another root has PIDs of its own: %v, %v", list, err)
	}
	asked := map[int]bool{}
	got, err := tree.walk(func(tid int) bool { asked[tid] = true; return tid != 20 })
	if err != nil {
		t.Fatal(err)
	}
	pinned := func(tid int, comm, cpu string) host.Process {
		return host.Process{PID: tid, Comm: comm, CPU: 3, Ticks: 58, Allowed: cpu, Pinned: true}
	}
	if diff := cmp.Diff([]host.Process{pinned(21, "haproxy", "2"), pinned(31, "reactor-1", "2"), pinned(51, "CPU 0/KVM", "3")}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if asked[60] {
		t.Error("a kernel thread that its name tells was asked for")
	}
}

// TestAffinityMask asks for this very thread.
func TestAffinityMask(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var before, one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &before); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.SchedSetaffinity(0, &before); err != nil {
			t.Error(err)
		}
	}()
	var mask affinityMask
	if got, want := mask.single(unix.Gettid()), before.Count() == 1; got != want {
		t.Errorf("before: %v, want %v", got, want)
	}
	for cpu := range 1024 {
		if before.IsSet(cpu) {
			one.Set(cpu)
			break
		}
	}
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		t.Fatal(err)
	}
	if !mask.single(unix.Gettid()) {
		t.Error("pinned to one CPU, and not seen so")
	}
	if mask.single(1 << 30) {
		t.Error("a thread that is not there is pinned")
	}
}

// A process that does not matter costs no memory.
func TestProcessesAllocate(t *testing.T) {
	count := func(n int) float64 {
		root := t.TempDir()
		for pid := 1; pid <= n; pid++ {
			put(t, root, fmt.Sprintf("proc/%d/comm", pid), "bash\n")
		}
		tree, err := openFiles(root)
		if err != nil {
			t.Fatal(err)
		}
		return testing.AllocsPerRun(3, func() {
			if _, err := tree.processes(); err != nil {
				t.Error(err)
			}
		})
	}
	few, many := count(10), count(400)
	if many > few+10 {
		t.Errorf("400 processes make %.0f allocations, 10 make %.0f", many, few)
	}
}

// The kernel threads of this machine are found by hand as well.
func TestProcessesOfThisMachine(t *testing.T) {
	tree, err := openFiles("/")
	if err != nil {
		t.Fatal(err)
	}
	list, err := tree.processes()
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]bool{}
	for _, p := range list {
		found[fmt.Sprintf("%d %s", p.PID, p.Comm)] = true
	}
	comms, err := filepath.Glob("/proc/[0-9]*/comm")
	if err != nil {
		t.Fatal(err)
	}
	want := 0
	for _, path := range comms {
		text, err := os.ReadFile(path)
		comm := strings.TrimSuffix(string(text), "\n")
		if err != nil || !strings.HasPrefix(comm, "ksoftirqd/") {
			continue
		}
		want++
		if pid := filepath.Base(filepath.Dir(path)); !found[pid+" "+comm] {
			t.Errorf("%s of process %s was not found", comm, pid)
		}
	}
	if want == 0 {
		t.Log("no ksoftirqd in sight: a PID namespace")
	}
}

// A tree outlives the Host that it came from.
func TestFilesOutliveHost(t *testing.T) {
	h, err := Open(Options{})
	if err != nil {
		t.Fatal(err)
	}
	tree := h.FS
	h = nil
	for range 5 {
		runtime.GC()
		time.Sleep(time.Millisecond)
		if _, err := fs.ReadFile(tree, "proc/cmdline"); err != nil {
			t.Fatal(err)
		}
		if _, err := fs.ReadDir(tree, "proc/sys"); err != nil {
			t.Fatal(err)
		}
	}
}
