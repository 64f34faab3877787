package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/napitune/napitune/lab/guest"
	"github.com/napitune/napitune/lab/wire"
)

// Runner boots guests.
type Runner struct {
	Cache  Cache
	Self   string            // the lab command, static: it is started again in the run's namespaces and put into the guest
	Files  map[string]string // more files for /lab/bin in the guest: name there, path here
	Source string            // directory to show at /src in the guest, read-only; empty: none
	Out    string            // file that /lab/results of the guest is appended to; empty: dropped
	Stdout io.Writer         // what the command prints
	Stderr io.Writer         // what goes wrong
}

// ErrNoStatus means that the guest ended without a word about its command.
var ErrNoStatus = errors.New("the guest ended without the command's status")

// runDir is the directory of one run.
type runDir string

func (r runDir) file(name string) string { return filepath.Join(string(r), name) }
func (r runDir) share() string           { return r.file("share") }

// order is what the run's second half is told.
type order struct {
	Machine Machine
	Cache   Cache
	Source  string
}

// Run boots a machine, runs a command in it as root and returns its status.
func (r Runner) Run(ctx context.Context, m Machine, command []string) (int, error) {
	m, err := m.Normalize()
	if err != nil {
		return 0, err
	}
	if missing := r.Cache.Missing(m); missing != "" {
		return 0, errors.New(missing)
	}
	temporary, err := os.MkdirTemp("", "lab-run-")
	if err != nil {
		return 0, err
	}
	defer RemoveAll(temporary)
	run := runDir(temporary)
	if err := r.prepare(run, m, command); err != nil {
		return 0, err
	}
	if err := makeDisk(ctx, m.Disk); err != nil {
		return 0, err
	}
	err = r.enter(ctx, run)
	if r.Out != "" {
		err = errors.Join(err, appendFile(r.Out, filepath.Join(run.share(), "results")))
	}
	if err != nil {
		return 0, err
	}
	text, err := os.ReadFile(filepath.Join(run.share(), "status"))
	if err != nil {
		ended := ErrNoStatus
		if cause := context.Cause(ctx); cause != nil {
			ended = fmt.Errorf("%w (%w)", ErrNoStatus, cause)
		}
		return 0, fmt.Errorf("%w; its console said:\n%s", ended, tail(run.file("console"), 30))
	}
	return strconv.Atoi(strings.TrimSpace(string(text)))
}

// prepare fills the run's directory.
func (r Runner) prepare(run runDir, m Machine, command []string) error {
	bin := filepath.Join(run.share(), "bin")
	if err := os.MkdirAll(bin, 0o755); err != nil {
		return err
	}
	told, err := json.Marshal(order{m, r.Cache, r.Source})
	if err != nil {
		return err
	}
	quoted := make([]string, len(command))
	for i, word := range command {
		quoted[i] = "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
	}
	// The command goes in as a file: a kernel's command line knows no quotes.
	script := "#!/bin/sh\nexec " + strings.Join(quoted, " ") + "\n"
	errs := []error{
		os.WriteFile(run.file("order"), told, 0o644),
		os.WriteFile(filepath.Join(run.share(), "cmd"), []byte(script), 0o755),
		os.WriteFile(filepath.Join(bin, "command"), guest.Command, 0o755),
		os.WriteFile(filepath.Join(bin, "lab.service"), guest.Service, 0o644),
		os.WriteFile(filepath.Join(bin, "lab.target"), guest.Target, 0o644),
		copyFile(filepath.Join(bin, "lab"), r.Self),
	}
	for name, path := range r.Files {
		errs = append(errs, copyFile(filepath.Join(bin, name), path))
	}
	return errors.Join(errs...)
}

func copyFile(target, source string) error {
	content, err := os.ReadFile(source)
	if err != nil {
		return err
	}
	return os.WriteFile(target, content, 0o755)
}

// appendFile appends whole lines: a guest that dies may leave a part of one.
func appendFile(target, source string) error {
	content, err := os.ReadFile(source)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	out, err := os.OpenFile(target, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = out.Write(content[:bytes.LastIndexByte(content, '\n')+1])
	return errors.Join(err, out.Close())
}

func tail(path string, lines int) string {
	content, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimSpace(string(content)), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// makeDisk makes the file that keeps a guest's changes, unless it is there.
func makeDisk(ctx context.Context, path string) error {
	if path == "" {
		return nil
	}
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	if err := errors.Join(os.WriteFile(path, nil, 0o644), os.Truncate(path, 512<<20)); err != nil {
		return err
	}
	if out, err := exec.CommandContext(ctx, "mkfs.ext4", "-q", "-F", "-O", "^has_journal", path).CombinedOutput(); err != nil {
		return fmt.Errorf("mkfs.ext4 %s: %w: %s", path, err, out)
	}
	return nil
}

// enter starts the second half in namespaces of its own, which die with it.
func (r Runner) enter(ctx context.Context, run runDir) error {
	args := []string{"--net", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--mount-proc"}
	if os.Getuid() != 0 {
		args = append(args, "--map-root-user")
	}
	command := exec.CommandContext(ctx, "unshare", append(args, "--", r.Self, "inside", string(run))...)
	command.Stdout, command.Stderr = r.Stdout, r.Stderr
	command.WaitDelay = 5 * time.Second
	// Killed, unshare takes all that is in the namespaces with it; it blocks SIGTERM.
	command.SysProcAttr = &syscall.SysProcAttr{}
	endWithParent(command.SysProcAttr, syscall.SIGKILL)
	if err := RunChild(command); err != nil && ctx.Err() == nil {
		return fmt.Errorf("run in namespaces of its own: %w; the console said:\n%s", err, tail(run.file("console"), 30))
	}
	return nil
}

// Inside is the second half of a run, within the namespaces: it wires the taps,
// starts QEMU, serves the guest's requests for loads and prints what its
// command prints.
func Inside(ctx context.Context, directory string, stdout, stderr io.Writer) error {
	run := runDir(directory)
	content, err := os.ReadFile(run.file("order"))
	if err != nil {
		return err
	}
	var told order
	if err := json.Unmarshal(content, &told); err != nil {
		return fmt.Errorf("%s: %w", run.file("order"), err)
	}
	if err := wireUp(ctx, told.Machine); err != nil {
		return err
	}
	printed := make(chan struct{})
	if err := serve(run.file("out.sock"), func(port net.Conn) {
		defer close(printed)
		// A guest that is gone is seen by the absence of its status.
		_, _ = io.Copy(stdout, port)
	}); err != nil {
		return err
	}
	if err := serve(run.file("wire.sock"), func(port net.Conn) {
		if err := wire.Serve(ctx, port); err != nil && ctx.Err() == nil {
			fmt.Fprintln(stderr, "lab:", err)
		}
	}); err != nil {
		return err
	}
	if err := serveHypervisor(ctx, run, told.Machine, stderr); err != nil {
		return err
	}
	program, firmware := told.Cache.emulator()
	emulator := exec.CommandContext(ctx, program, append(firmware, told.Machine.arguments(told.Cache, run, told.Source)...)...)
	// QEMU warns of much that does not matter here, such as eBPF it cannot load.
	var said bytes.Buffer
	emulator.Stderr = &said
	if err := emulator.Run(); err != nil {
		return fmt.Errorf("%s: %w: %s", program, err, said.String())
	}
	select {
	case <-printed:
	case <-time.After(5 * time.Second):
	}
	return nil
}

// serveHypervisor connects what the guest asks for with QEMU's monitor.
func serveHypervisor(ctx context.Context, run runDir, m Machine, stderr io.Writer) error {
	monitors := make(chan *monitor, 1)
	if err := serve(run.file("qmp.sock"), func(connection net.Conn) {
		monitors <- newMonitor(connection)
		<-ctx.Done()
	}); err != nil {
		return err
	}
	return serve(run.file("asked.sock"), func(port net.Conn) {
		if err := m.serveMonitor(ctx, <-monitors, port); err != nil && ctx.Err() == nil {
			fmt.Fprintln(stderr, "lab:", err)
		}
	})
}

// wireUp makes the taps and sinks at the host's end of the wire.
func wireUp(ctx context.Context, m Machine) error {
	commands := [][]string{{"ip", "link", "set", "lo", "up"}}
	for i := range m.NICs {
		commands = append(commands, m.tapCommands(i)...)
	}
	for _, c := range commands {
		if out, err := exec.CommandContext(ctx, c[0], c[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s", strings.Join(c, " "), err, out)
		}
	}
	for i := range m.NICs {
		if err := wire.Discard(ctx, net.JoinHostPort(tapAddress(i), "9")); err != nil {
			return err
		}
	}
	return nil
}

// serve takes QEMU's one connection to a socket.
func serve(path string, handle func(net.Conn)) error {
	listener, err := net.Listen("unix", path)
	if err != nil {
		return err
	}
	go func() {
		port, err := listener.Accept()
		if err != nil {
			return
		}
		defer port.Close()
		handle(port)
	}()
	return nil
}
