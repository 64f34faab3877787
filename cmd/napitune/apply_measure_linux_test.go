package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink" //nolint:depguard // looks devices up in a namespace of its own

	"github.com/napitune/napitune/apply"
	measuring "github.com/napitune/napitune/apply/measure"
	"github.com/napitune/napitune/cmd/napitune/report"
	"github.com/napitune/napitune/detect"
	"github.com/napitune/napitune/probes/counters"
)

// repeatEnv is how often the tests below measure a harmful and a neutral plan,
// twice if it is not set. All twenty of both, some fifteen minutes:
//
//	NAPITUNE_MEASURE_RUNS=20 go test -run 'Test(Harm|Neutral).*Live' -timeout 60m -v ./cmd/napitune
const repeatEnv = "NAPITUNE_MEASURE_RUNS"

func repeats(t *testing.T) int {
	t.Helper()
	text := os.Getenv(repeatEnv)
	if text == "" {
		return 2
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("%s=%q: a number of at least 1", repeatEnv, text)
	}
	return n
}

// stream sends small UDP packets at a steady rate out of v0, into v1 and up to
// its IP. A large buffer makes it send whatever becomes of them; a small one
// makes it wait for packets that lie in v1's ring, as a local sender does.
func stream(t *testing.T, perSecond, buffer int) {
	t.Helper()
	from, err := netlink.LinkByName("v0")
	if err != nil {
		t.Fatal(err)
	}
	to, err := netlink.LinkByName("v1")
	if err != nil {
		t.Fatal(err)
	}
	socket, err := syscall.Socket(syscall.AF_PACKET, syscall.SOCK_RAW|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.SetsockoptInt(socket, syscall.SOL_SOCKET, syscall.SO_SNDBUFFORCE, buffer); err != nil {
		t.Fatal(err)
	}
	// A ring that nobody polls any more must not hold the test up for good.
	wait := syscall.NsecToTimeval((100 * time.Millisecond).Nanoseconds())
	if err := syscall.SetsockoptTimeval(socket, syscall.SOL_SOCKET, syscall.SO_SNDTIMEO, &wait); err != nil {
		t.Fatal(err)
	}
	frame := udpFrame(from.Attrs().HardwareAddr, to.Attrs().HardwareAddr)
	address := &syscall.SockaddrLinklayer{Ifindex: from.Attrs().Index}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- send(ctx, socket, frame, address, perSecond) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Errorf("sending: %v", err)
		}
		_ = syscall.Close(socket)
	})
}

// udpFrame is a packet to nobody: counted by IP, then dropped.
func udpFrame(from, to net.HardwareAddr) []byte {
	const header, payload = 14 + 20 + 8, 100
	frame := make([]byte, header+payload)
	copy(frame, to)
	copy(frame[6:], from)
	frame[12] = 8 // IPv4
	ip := frame[14:]
	ip[0], ip[8], ip[9] = 0x45, 64, syscall.IPPROTO_UDP
	binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)))
	copy(ip[12:], []byte{192, 0, 2, 1, 192, 0, 2, 2})
	binary.BigEndian.PutUint16(ip[24:], uint16(len(ip)-20))
	return frame
}

// send catches up after every pause, so that a busy machine offers the same.
func send(ctx context.Context, socket int, frame []byte, to syscall.Sockaddr, perSecond int) error {
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	began, sent := time.Now(), 0
	for {
		due := int(time.Since(began).Seconds() * float64(perSecond))
		for ; sent < due && ctx.Err() == nil; sent++ {
			// A full ring is what the test is about.
			err := syscall.Sendto(socket, frame, 0, to)
			if err != nil && !errors.Is(err, syscall.ENOBUFS) && !errors.Is(err, syscall.EAGAIN) {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// offered is enough to fill the ring of 256 packets of a veth
// (drivers/net/veth.c, VETH_RING_SIZE) in 13 ms, and little work.
const offered = 20_000

// carefree holds more packets than the ring of a veth, patient fewer.
const carefree, patient = 16 << 20, 64 << 10

// harm makes the receiving NAPI poll twenty times a second only: its ring holds
// a quarter of what comes in between.
func harm() [][2]string {
	return [][2]string{{"v1/gro_flush_timeout", "50000000"}, {"v1/napi_defer_hard_irqs", "1000"}}
}

// napiOn makes v1 poll with a NAPI of its own what comes from a socket
// (drivers/net/veth.c, veth_skb_is_eligible_for_gro).
func napiOn(t *testing.T) {
	t.Helper()
	mustEnd(t, 0, command("apply", "--yes", writePlan(t, [][2]string{
		{"v1/feature.rx-gro", "on"}, {"v1/feature.rx-udp-gro-forwarding", "on"},
	})))
}

// measured applies a plan with a short measurement.
func measured(t *testing.T, file string, more ...string) (code int, out report.Transaction, errs string) {
	t.Helper()
	cmd := command(append([]string{"apply", "--yes", "--measure", "1s", "--format", "json", file}, more...)...)
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	if stdout.Len() == 0 {
		t.Fatalf("ended with %d\n%s", cmd.ProcessState.ExitCode(), &stderr)
	}
	return cmd.ProcessState.ExitCode(), decode[report.Transaction](t, stdout.String()), stderr.String()
}

// A plan that loses three packets of four is rolled back, every time.
func TestHarmIsRolledBackLive(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	napiOn(t)
	stream(t, offered, carefree)
	before := settings(t)
	n := repeats(t)
	caught := 0
	for i := range n {
		// Files alone must do as well as probes.
		var without []string
		if i%2 == 1 {
			without = append(without, "--no-bpf")
		}
		code, out, errs := measured(t, writePlan(t, harm()), without...)
		if out.Measured == nil {
			t.Fatalf("nothing was measured: %s", errs)
		}
		t.Logf("run %d: ended with %d, %s", i+1, code, out.Measured.Brought())
		if code == apply.ExitRolledBack && out.State == apply.RolledBack && out.Measured.Verdict == measuring.Worse {
			caught++
		} else {
			mustEnd(t, 0, command("rollback"))
		}
		same(t, fmt.Sprintf("after run %d", i+1), before)
	}
	t.Logf("rolled back %d of %d", caught, n)
	if caught != n {
		t.Errorf("%d of %d runs were rolled back", caught, n)
	}
	text, _ := mustEnd(t, 0, command("history"))
	if strings.Count(text, "worse: ") != caught || strings.Count(text, "  measured") < n {
		t.Errorf("history:\n%s", text)
	}
}

// A plan that no packet notices is kept.
func TestNeutralIsKeptLive(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	napiOn(t)
	stream(t, offered, carefree)
	file := writePlan(t, [][2]string{{"v1/rx-3/rps.flow_cnt", "1024"}, {"v0/rx-2/rps.cpus", "0"}})
	n := repeats(t)
	kept, verdicts := 0, map[measuring.Verdict]int{}
	for i := range n {
		code, out, errs := measured(t, file)
		if out.Measured == nil {
			t.Fatalf("nothing was measured: %s", errs)
		}
		t.Logf("run %d: ended with %d, %s", i+1, code, out.Measured.Brought())
		verdicts[out.Measured.Verdict]++
		if code == 0 && out.State == apply.Confirmed {
			kept++
			mustEnd(t, 0, command("rollback"))
		}
	}
	t.Logf("kept %d of %d: %v", kept, n, verdicts)
	// 19 of 20; of fewer, all but one.
	if kept < n-max(1, n/20) {
		t.Errorf("%d of %d runs were kept", kept, n)
	}
}

// A sender that waits looks like one that has less to send: nothing is lost and
// no CPU is busy. That is said, and the changes stay.
func TestLessTrafficIsNotBlamedLive(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	napiOn(t)
	stream(t, offered, patient)
	code, out, errs := measured(t, writePlan(t, harm()))
	if out.Measured == nil || code != 0 || out.State != apply.Confirmed || out.Measured.Verdict != measuring.Unclear ||
		!strings.Contains(errs, "measured cannot tell: the traffic changed: offered load") {
		t.Errorf("ended with %d: %+v\n%s", code, out, errs)
	}
}

// Probes that fail while it measures after the changes are no reason to take
// them back.
func TestMeasureWithoutProbesLive(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	stream(t, 2000, carefree)
	file := writePlan(t, [][2]string{{"v1/rx-3/rps.flow_cnt", "1024"}})
	opened := 0
	e := process()
	e.Probes = func(*detect.Snapshot, []string) (prober, error) {
		opened++
		p := &failingProbes{state: counters.Attached}
		if opened == 2 {
			p.watch = 3
		}
		return p, nil
	}
	code, stdout, errs := invoke(context.Background(), t, e, "apply", "--yes", "--measure", "1s", file)
	if code != exitDone || opened != 2 || !strings.Contains(errs, "no probe figures: observe: detach") {
		t.Errorf("ended with %d, probes opened %d times:\n%s%s", code, opened, errs, stdout)
	}
}

// Ctrl-C while it measures: before the changes nothing was done, after them they
// are rolled back.
func TestMeasureInterruptedLive(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	stream(t, 2000, carefree)
	before := settings(t)
	file := writePlan(t, [][2]string{{"v1/rx-3/rps.flow_cnt", "1024"}})
	for _, test := range []struct {
		told string
		code int
	}{{"measuring before the changes", exitSignal + int(syscall.SIGINT)}, {"measuring after the changes", apply.ExitRolledBack}} {
		cmd := command("apply", "--yes", "--measure", "1s", file)
		told, err := cmd.StderrPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		text, buffer := "", make([]byte, 4096)
		for signalled := false; ; {
			n, err := told.Read(buffer)
			text += string(buffer[:n])
			if !signalled && strings.Contains(text, test.told) {
				signalled = true
				_ = cmd.Process.Signal(os.Interrupt)
			}
			if err != nil {
				break
			}
		}
		_ = cmd.Wait()
		if got := cmd.ProcessState.ExitCode(); got != test.code {
			t.Errorf("%s: ended with %d, want %d\n%s", test.told, got, test.code, text)
		}
		same(t, "interrupted while "+test.told, before)
	}
}

// On a terminal, where nothing can be told somebody is asked, and only yes keeps.
func TestMeasureAsksLive(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	before := settings(t)
	file := writePlan(t, [][2]string{{"v1/rx-3/rps.flow_cnt", "1024"}})
	for _, test := range []struct {
		answers string
		code    int
	}{{"y\nn\n", apply.ExitRolledBack}, {"y\ny\n", exitDone}} {
		e := process()
		e.Stdin, e.StdinTTY, e.StderrTTY = strings.NewReader(test.answers), true, true
		code, stdout, errs := invoke(context.Background(), t, e, "apply", "--measure", "1s", file)
		if code != test.code || !strings.Contains(errs, "Keep the changes? [y/N]") || !strings.Contains(errs, "hardly any traffic") {
			t.Errorf("%q ended with %d, want %d:\n%s%s", test.answers, code, test.code, errs, stdout)
		}
		if code == apply.ExitRolledBack {
			same(t, "after no", before)
		}
	}
	text, _ := mustEnd(t, 0, command("history"))
	if !slices.ContainsFunc(strings.Split(text, "\n"), func(l string) bool { return strings.Contains(l, "cannot tell: there was hardly any traffic") }) {
		t.Errorf("history:\n%s", text)
	}
	mustEnd(t, 0, command("rollback"))
	same(t, "after the rollback", before)
}

// Where nothing can be told, what was chosen is done and nobody is asked.
func TestUnclearLive(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	before := settings(t)
	file := writePlan(t, [][2]string{{"v1/rx-3/rps.flow_cnt", "1024"}})
	for _, test := range []struct {
		terminal bool
		word     string
		code     int
	}{{false, "rollback", apply.ExitRolledBack}, {true, "rollback", apply.ExitRolledBack}, {true, "keep", exitDone}} {
		e := process()
		args := []string{"apply", "--measure", "1s", "--unclear", test.word, file}
		if e.StdinTTY, e.StderrTTY = test.terminal, test.terminal; test.terminal {
			e.Stdin = strings.NewReader("y\n") // to the plan
		} else {
			args = append(args, "--yes")
		}
		code, stdout, errs := invoke(context.Background(), t, e, args...)
		if code != test.code || strings.Contains(errs, "Keep the changes?") || !strings.Contains(errs, "cannot tell: there was hardly any traffic") {
			t.Errorf("%+v ended with %d:\n%s%s", test, code, errs, stdout)
		}
		if test.word == "rollback" {
			if !strings.Contains(errs, "(--unclear rollback)") {
				t.Errorf("the reason is not told: %s", errs)
			}
			same(t, "after "+test.word, before)
		}
	}
	mustEnd(t, 0, command("rollback"))
	same(t, "after the rollback", before)
}
