package live

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math/bits"
	"slices"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/napitune/napitune/detect/host"
)

const (
	// direntBytes is the buffer for directory entries: about a thousand
	// processes for each system call.
	direntBytes = 32 << 10
	// procBytes is the buffer for stat and status, which have one page at most
	// for a task without thousands of groups.
	procBytes = 16 << 10
	// argsBytes bounds a command line; the rest is cut.
	argsBytes = 4 << 10

	// Task flags in field 9 of /proc/PID/stat (include/linux/sched.h): a kernel
	// thread, and a thread that the kernel runs inside a user process, as vhost
	// does since Linux 6.4 (kernel/vhost_task.c).
	flagKernelThread = 0x00200000
	flagUserWorker   = 0x00004000
)

// hypervisors are the names, as far as their first letters, of processes that
// have vhost threads as members of their own thread group since Linux 6.4.
func isHypervisor(comm string) bool {
	for _, prefix := range [...]string{"qemu", "kvm", "cloud-hyp", "crosvm", "firecracker"} {
		if strings.HasPrefix(comm, prefix) {
			return true
		}
	}
	return false
}

// processWalk reads processes with one set of buffers and without allocating
// for those that do not matter: hosts have tens of thousands.
type processWalk struct {
	path    []byte // zero-terminated, for openat
	text    []byte
	found   []host.Process
	dirents [2][]byte // one per depth: processes, then threads
	// affinity finds threads that may run on one CPU only; nil where they are
	// not looked for.
	affinity func(tid int) bool
	asked    int // how many threads affinity was called for
	pinned   map[int][]host.Process
}

const (
	// mostThreads bounds the threads that are asked for their affinity: listing
	// and asking 5,000 took 28 ms on a busy virtual machine. Those of the
	// processes after are not looked for.
	mostThreads = 10_000
	// pinnedPerCPU is how many pinned threads of one CPU are kept.
	pinnedPerCPU = 2
)

// processes lists what host.Watched names, and the busiest pinned threads.
// Processes that vanish or hide meanwhile are left out.
func (f *files) processes() ([]host.Process, error) {
	if f.own {
		return f.walk((&affinityMask{}).single)
	}
	return f.walk(nil)
}

// walk is processes with the system call that tells pinned threads, nil for none.
func (f *files) walk(affinity func(tid int) bool) ([]host.Process, error) {
	const op = "list processes"
	proc, err := f.open("proc", unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", op, err)
	}
	defer unix.Close(proc)
	w := &processWalk{text: make([]byte, procBytes), affinity: affinity, pinned: map[int][]host.Process{}}
	for i := range w.dirents {
		w.dirents[i] = make([]byte, direntBytes)
	}
	err = eachNumbered(proc, w.dirents[0], func(pid []byte) { w.process(proc, pid) })
	if err != nil {
		return nil, readError(op, err, strict)
	}
	for _, cpu := range slices.Sorted(maps.Keys(w.pinned)) {
		w.found = append(w.found, w.pinned[cpu]...)
	}
	return w.found, nil
}

// process takes one entry of /proc.
func (w *processWalk) process(proc int, pid []byte) {
	comm := bytes.TrimSuffix(w.read(proc, pid, "/comm"), []byte{'\n'})
	switch {
	case host.Watched(string(comm)):
		w.add(proc, pid)
		if host.Sensor(string(comm)) && w.affinity != nil {
			w.threads(proc, pid, w.single) // its workers are pinned, as a rule
		}
	case isHypervisor(string(comm)):
		w.threads(proc, pid, w.vhost)
	case w.affinity != nil && w.asked < mostThreads && !isKernelThread(comm):
		w.threads(proc, pid, w.single)
	}
}

func (w *processWalk) threads(proc int, pid []byte, each func(dir int, tid []byte)) {
	dir, err := openAt(proc, w.join(pid, "/task"), unix.O_DIRECTORY)
	if err != nil {
		return
	}
	defer unix.Close(dir)
	// The list of threads is as complete as the process is alive.
	_ = eachNumbered(dir, w.dirents[1], func(tid []byte) { each(dir, tid) })
}

// vhost takes a thread of a hypervisor.
func (w *processWalk) vhost(dir int, tid []byte) {
	comm := bytes.TrimSuffix(w.read(dir, tid, "/comm"), []byte{'\n'})
	if host.Watched(string(comm)) {
		w.add(dir, tid)
		return
	}
	w.single(dir, tid)
}

// single takes a thread if it may run on one CPU only.
func (w *processWalk) single(dir int, tid []byte) {
	if w.affinity == nil || w.asked >= mostThreads {
		return
	}
	w.asked++
	number := 0
	for _, c := range tid {
		number = number*10 + int(c-'0')
	}
	if !w.affinity(number) {
		return
	}
	stat, err := parseStat(w.read(dir, tid, "/stat"))
	if err != nil || stat.flags&flagKernelThread != 0 {
		return
	}
	p := host.Process{PID: stat.pid, Comm: stat.comm, CPU: stat.cpu, Ticks: stat.ticks, Pinned: true}
	p.Allowed = allowedCPUs(w.read(dir, tid, "/status"))
	cpu, err := strconv.Atoi(p.Allowed)
	if err != nil {
		return // not one CPU after all
	}
	w.keep(cpu, p)
}

// keep holds the busiest pinned threads of a CPU, busiest first.
func (w *processWalk) keep(cpu int, p host.Process) {
	list := append(w.pinned[cpu], p)
	slices.SortFunc(list, func(a, b host.Process) int {
		return cmp.Or(cmp.Compare(b.Ticks, a.Ticks), cmp.Compare(a.PID, b.PID))
	})
	w.pinned[cpu] = list[:min(len(list), pinnedPerCPU)]
}

// isKernelThread knows the threads that every CPU has by their names
// (kernel/workqueue.c, kernel/cpu.c, kernel/stop_machine.c, kernel/rcu): nearly
// all kernel threads of a large host, which need not be looked at further.
func isKernelThread(comm []byte) bool {
	for _, prefix := range [...]string{"kworker/", "cpuhp/", "migration/", "idle_inject/", "rcu", "irq/"} {
		if bytes.HasPrefix(comm, []byte(prefix)) {
			return true
		}
	}
	return false
}

// affinityMask is room for the mask of a thread on 8192 CPUs, the most that
// x86 and arm64 kernels are built for (CONFIG_NR_CPUS).
type affinityMask [8192 / 64]uint64

// single reports whether a thread may run on one CPU only. Whoever may see a
// thread may ask (kernel/sched/syscalls.c, sched_getaffinity).
func (m *affinityMask) single(tid int) bool {
	n, _, errno := unix.RawSyscall(unix.SYS_SCHED_GETAFFINITY, uintptr(tid), unsafe.Sizeof(*m), uintptr(unsafe.Pointer(m)))
	if errno != 0 {
		return false
	}
	count := 0
	for _, word := range m[:n/8] {
		count += bits.OnesCount64(word)
	}
	return count == 1
}

// add reads the rest of a process or thread that matters.
func (w *processWalk) add(dir int, pid []byte) {
	stat, err := parseStat(w.read(dir, pid, "/stat"))
	if err != nil {
		return
	}
	p := host.Process{PID: stat.pid, Comm: stat.comm, CPU: stat.cpu, Ticks: stat.ticks}
	status := w.read(dir, pid, "/status")
	p.Allowed = allowedCPUs(status)
	if stat.flags&(flagKernelThread|flagUserWorker) == 0 {
		p.RSSKiB = residentKiB(status)
		p.Args = argsText(w.read(dir, pid, "/cmdline"))
	}
	w.found = append(w.found, p)
}

func (w *processWalk) join(pid []byte, name string) []byte {
	w.path = append(append(append(w.path[:0], pid...), name...), 0)
	return w.path
}

// read gives the contents of a small file, valid until the next call, and
// nothing if it cannot be read.
func (w *processWalk) read(dir int, pid []byte, name string) []byte {
	fd, err := openAt(dir, w.join(pid, name), 0)
	if err != nil {
		return nil
	}
	defer unix.Close(fd)
	n := 0
	for n < len(w.text) {
		got, err := ignoringEINTR(func() (int, error) { return unix.Read(fd, w.text[n:]) })
		if err != nil {
			return nil
		}
		if got == 0 {
			break
		}
		n += got
	}
	return w.text[:n]
}

// openAt is openat(2) for a zero-terminated path, without the copy that a
// string needs.
func openAt(dir int, path []byte, flags int) (int, error) {
	flags |= unix.O_RDONLY | unix.O_CLOEXEC
	fd, _, errno := unix.Syscall6(unix.SYS_OPENAT, uintptr(dir), uintptr(unsafe.Pointer(&path[0])), uintptr(flags), 0, 0, 0)
	if errno != 0 {
		return -1, errno
	}
	return int(fd), nil
}

// eachNumbered calls f for every entry of a directory whose name is a number.
// The name is valid during the call.
func eachNumbered(dir int, buf []byte, f func(name []byte)) error {
	for {
		n, err := ignoringEINTR(func() (int, error) { return unix.Getdents(dir, buf) })
		if err != nil || n <= 0 {
			return err
		}
		eachDirent(buf[:n], func(name []byte) {
			if name[0] >= '1' && name[0] <= '9' {
				f(name)
			}
		})
	}
}

// eachDirent walks struct linux_dirent64: inode, offset, record length, type,
// zero-terminated name (include/linux/dirent.h).
func eachDirent(b []byte, f func(name []byte)) {
	const header = 19
	for len(b) > header {
		size := int(binary.NativeEndian.Uint16(b[16:]))
		if size <= header || size > len(b) {
			return
		}
		name := b[header:size]
		if end := bytes.IndexByte(name, 0); end > 0 {
			f(name[:end])
		}
		b = b[size:]
	}
}

// taskStat is the part of /proc/PID/stat that matters.
type taskStat struct {
	pid   int
	comm  string
	flags uint64
	ticks uint64
	cpu   int
}

// parseStat reads /proc/PID/stat (fs/proc/array.c, do_task_stat). The name may
// hold blanks and parentheses, so it ends at the last one.
func parseStat(b []byte) (taskStat, error) {
	// Positions after the name, which is field 2: flags are field 9, utime and
	// stime 14 and 15, processor 39.
	const flags, utime, stime, processor = 9 - 3, 14 - 3, 15 - 3, 39 - 3
	open, end := bytes.IndexByte(b, '('), bytes.LastIndexByte(b, ')')
	if open < 1 || end < open {
		return taskStat{}, fmt.Errorf("stat %.40q: no name in parentheses", b)
	}
	fields := bytes.Fields(b[end+1:])
	if len(fields) <= processor {
		return taskStat{}, fmt.Errorf("stat %.40q: %d fields after the name", b, len(fields))
	}
	pid, err := strconv.ParseUint(string(bytes.TrimSpace(b[:open])), 10, 31)
	if err != nil {
		return taskStat{}, fmt.Errorf("stat %.40q: %w", b, err)
	}
	var errs [4]error
	number := func(i, field, bits int) (n uint64) {
		n, errs[i] = strconv.ParseUint(string(fields[field]), 10, bits)
		return n
	}
	s := taskStat{
		pid:   int(pid),
		comm:  string(b[open+1 : end]),
		flags: number(0, flags, 64),
		ticks: number(1, utime, 64) + number(2, stime, 64),
		cpu:   int(number(3, processor, 31)),
	}
	if err := errors.Join(errs[:]...); err != nil {
		return taskStat{}, fmt.Errorf("stat %.40q: %w", b, err)
	}
	return s, nil
}

// allowedCPUs finds the list form of the CPU set in /proc/PID/status.
func allowedCPUs(status []byte) string {
	for line := range bytes.Lines(status) {
		if list, ok := bytes.CutPrefix(line, []byte("Cpus_allowed_list:")); ok {
			return string(bytes.TrimSpace(list))
		}
	}
	return ""
}

// residentKiB finds VmRSS in /proc/PID/status (fs/proc/task_mmu.c, task_mem); 0
// if it is not there.
func residentKiB(status []byte) uint64 {
	for line := range bytes.Lines(status) {
		if value, ok := bytes.CutPrefix(line, []byte("VmRSS:")); ok {
			number, _ := strings.CutSuffix(strings.TrimSpace(string(value)), " kB")
			n, err := strconv.ParseUint(number, 10, 64)
			if err != nil {
				return 0
			}
			return n
		}
	}
	return 0
}

// argsText makes one line of a zero-separated command line.
func argsText(cmdline []byte) string {
	cmdline = cmdline[:min(len(cmdline), argsBytes)]
	return string(bytes.TrimSpace(bytes.ReplaceAll(cmdline, []byte{0}, []byte{' '})))
}
