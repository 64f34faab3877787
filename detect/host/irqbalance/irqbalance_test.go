package irqbalance

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/napitune/napitune/detect/host"
)

// daemon speaks the protocol from the other side, one connection at a time.
type daemon struct {
	mu     sync.Mutex
	banned []string
	asked  []string
	// answer, if set, answers instead; closing is up to it.
	answer func(conn net.Conn, request string)
}

// listen starts a daemon with a PID below root.
func (d *daemon) listen(t *testing.T, root string, pid int) net.Listener {
	t.Helper()
	dir := filepath.Join(root, "run/irqbalance")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", filepath.Join(dir, fmt.Sprintf("irqbalance%d.sock", pid)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			d.serve(conn)
		}
	}()
	return l
}

// requests are those so far.
func (d *daemon) requests() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.asked)
}

// serve does one recvmsg of 500 bytes, as irqbalance 1.9.2 does.
func (d *daemon) serve(conn net.Conn) {
	defer conn.Close()
	buf := make([]byte, 500)
	n, err := conn.Read(buf)
	if err != nil {
		return
	}
	request := string(buf[:n])
	d.mu.Lock()
	defer d.mu.Unlock()
	d.asked = append(d.asked, request)
	switch list, ban := strings.CutPrefix(request, "settings ban irqs "); {
	case d.answer != nil:
		d.answer(conn, request)
	case ban && list == "NONE":
		d.banned = nil
	case ban:
		d.banned = strings.Fields(list)
	case request == "setup":
		text := "SLEEP 10 "
		for _, irq := range d.banned {
			text += "IRQ " + irq + " LOAD 0 DIFF 0 CLASS 0 "
		}
		_, _ = conn.Write([]byte(text + "BANNED 00000000,00000003"))
	}
}

func client(root string, pids ...int) Client {
	return Client{Root: root, PIDs: func() ([]int, error) { return pids, nil }, Patience: 5 * time.Second}
}

func TestBan(t *testing.T) {
	t.Parallel()
	d := &daemon{banned: []string{"7", "3"}}
	root := t.TempDir()
	d.listen(t, root, 42)
	c := client(root, 42)
	for _, want := range [][]int{{0, 45, 46}, nil, {3, 7}} {
		if err := c.Ban(want); err != nil {
			t.Fatal(err)
		}
		got, err := c.Setup()
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(host.Irqbalance{Interval: 10, Banned: want}, got); diff != "" {
			t.Errorf("-want +got:\n%s", diff)
		}
	}
	if got, want := d.requests()[0], "settings ban irqs 0 45 46"; got != want {
		t.Errorf("asked %q, want %q: a 0 further on would end the list", got, want)
	}
}

// What does not fit the daemon's buffer is never sent: it would cut a number in
// two and ban another interrupt.
func TestBanTooMany(t *testing.T) {
	t.Parallel()
	d := &daemon{}
	root := t.TempDir()
	d.listen(t, root, 42)
	var irqs []int
	for irq := 1000; len(irqs) < 96; irq++ {
		irqs = append(irqs, irq)
	}
	if err := client(root, 42).Ban(irqs); err != nil {
		t.Errorf("%d interrupts: %v", len(irqs), err)
	}
	irqs = append(irqs, 2000)
	if err := client(root, 42).Ban(irqs); !errors.Is(err, ErrTooMany) {
		t.Errorf("%d interrupts: %v", len(irqs), err)
	}
	if err := client(root, 42).Ban([]int{-1}); err == nil {
		t.Error("a negative interrupt was taken")
	}
	if asked := d.requests(); len(asked) != 1 || len(asked[0]) != 497 {
		t.Errorf("%d requests, the first of %d bytes", len(asked), len(asked[0]))
	}
}

func TestAnswers(t *testing.T) {
	t.Parallel()
	const good = "SLEEP 10 IRQ 45 LOAD 1 DIFF 2 CLASS 5 BANNED 0"
	for name, test := range map[string]struct {
		answer func(conn net.Conn, request string)
		is     error // nil: no error
	}{
		"in pieces": {func(c net.Conn, _ string) {
			for _, b := range []byte(good) {
				_, _ = c.Write([]byte{b})
			}
		}, nil},
		"refused":   {func(net.Conn, string) {}, fs.ErrPermission},
		"cut short": {func(c net.Conn, _ string) { _, _ = c.Write([]byte(good[:20])) }, host.ErrInconclusive},
		"garbage":   {func(c net.Conn, _ string) { _, _ = c.Write([]byte("\x00\xff hello there, SLEEP")) }, host.ErrInconclusive},
		"endless": {func(c net.Conn, _ string) {
			for range 1024 {
				if _, err := c.Write(make([]byte, 1024)); err != nil {
					return
				}
			}
		}, host.ErrInconclusive},
		"silent": {func(c net.Conn, _ string) { _, _ = c.Read(make([]byte, 1)) }, os.ErrDeadlineExceeded},
	} {
		d := &daemon{answer: test.answer}
		root := t.TempDir()
		d.listen(t, root, 42)
		c := client(root, 42)
		if test.is == os.ErrDeadlineExceeded {
			c.Patience = 100 * time.Millisecond
		}
		if _, err := c.Setup(); !errors.Is(err, test.is) {
			t.Errorf("%s: %v, want %v", name, err, test.is)
		}
	}
}

// After a restart the socket has another name; the old one may still lie there.
func TestRestart(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	first := &daemon{banned: []string{"45"}}
	l := first.listen(t, root, 42)
	pid := 42
	c := Client{Root: root, PIDs: func() ([]int, error) {
		if pid == 0 {
			return nil, nil
		}
		return []int{pid}, nil
	}}
	if got, err := c.Setup(); err != nil || len(got.Banned) != 1 {
		t.Fatalf("%+v, %v", got, err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	pid = 0
	if _, err := c.Setup(); !errors.Is(err, host.ErrUnsupported) {
		t.Errorf("stopped: %v", err)
	}
	pid = 43
	if err := c.Ban([]int{45}); err == nil || errors.Is(err, host.ErrUnsupported) || !strings.Contains(err.Error(), "no socket") {
		t.Errorf("running without a socket: %v", err)
	}
	(&daemon{}).listen(t, root, 43)
	if got, err := c.Setup(); err != nil || len(got.Banned) != 0 {
		t.Errorf("the new one: %+v, %v", got, err)
	}
}

func FuzzParseSetup(f *testing.F) {
	for _, seed := range []string{
		"SLEEP 10 BANNED 00000000,00000003", "SLEEP 10 IRQ 45 LOAD 0 DIFF 0 CLASS 0 BANNED 0", "",
		"SLEEP 10 IRQ 45 LOAD 0 DIFF 0 CLASS", "SLEEP -1 BANNED 0", "SLEEP 10 IRQ 99999999999 LOAD 0 DIFF 0 CLASS 0 BANNED 0", "BANNED SLEEP 1 IRQ",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, answer string) {
		got, err := ParseSetup(answer)
		if err != nil {
			if !errors.Is(err, host.ErrInconclusive) || !cmp.Equal(got, host.Irqbalance{}) {
				t.Fatalf("%v with %+v", err, got)
			}
			return
		}
		for i, irq := range got.Banned {
			if irq < 0 || i > 0 && irq <= got.Banned[i-1] {
				t.Fatalf("%q gives %v", answer, got.Banned)
			}
		}
	})
}
