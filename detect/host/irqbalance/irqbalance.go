// Package irqbalance talks to a running irqbalance over the socket that its own
// user interface uses: which interrupts it leaves alone, and that it is to leave
// others alone. The protocol is irqbalance.c, sock_handle, as of 1.5 to 1.9.5.
//
// One request, one answer or none, and the daemon closes. It serves requests
// between its rounds only, and up to 1.9.4 it sleeps a whole interval inside a
// round that follows a change, so an answer may take that long.
package irqbalance

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/napitune/napitune/detect/host"
)

const (
	// patience for one request: the interval of rounds is 10 s unless -t says
	// otherwise (irqbalance.h, SLEEP_INTERVAL), and a change costs two.
	patience = 30 * time.Second
	// maxAnswer bounds an answer: 50 bytes for each of 4096 banned interrupts.
	maxAnswer = 256 << 10
	// maxRequest is what fits the daemon's buffer of 500 bytes up to 1.9.4. It
	// cuts the rest off, and the number in the middle becomes another one.
	maxRequest = 499
)

// ErrTooMany says that a list of interrupts does not fit a request.
var ErrTooMany = errors.New("more interrupts than irqbalance takes at once")

// Client talks to the irqbalance of one machine.
type Client struct {
	// Root is the directory below which the socket is looked for, "/" on a host.
	Root string
	// PIDs lists the processes that are called irqbalance, at the moment of
	// the call: after a restart it is another one.
	PIDs func() ([]int, error)
	// Patience bounds one request; 0 means 30 s.
	Patience time.Duration
}

// Setup asks what the daemon was told. Without a running one the error wraps
// host.ErrUnsupported; one that answers root only, fs.ErrPermission.
func (c Client) Setup() (host.Irqbalance, error) {
	answer, err := c.ask("setup")
	if err != nil {
		return host.Irqbalance{}, fmt.Errorf("ask irqbalance: %w", err)
	}
	if answer == "" {
		// To anybody but root it closes without a word.
		return host.Irqbalance{}, fmt.Errorf("ask irqbalance: no answer, as to all but root: %w", fs.ErrPermission)
	}
	return ParseSetup(answer)
}

// Ban replaces the list of interrupts that the daemon leaves alone. It waits
// until the request was handled; that it was obeyed only Setup shows.
func (c Client) Ban(irqs []int) error {
	request, err := banRequest(irqs)
	if err != nil {
		return fmt.Errorf("ban interrupts: %w", err)
	}
	if _, err := c.ask(request); err != nil {
		return fmt.Errorf("ban interrupts: %w", err)
	}
	return nil
}

// Fits says why a list of interrupts cannot be handed over, nil if it can.
func Fits(irqs []int) error {
	_, err := banRequest(irqs)
	return err
}

func banRequest(irqs []int) (string, error) {
	if len(irqs) == 0 {
		return "settings ban irqs NONE", nil
	}
	// A 0 ends the list for the daemon unless it comes first.
	sorted := slices.Sorted(slices.Values(irqs))
	var b strings.Builder
	b.WriteString("settings ban irqs")
	for _, irq := range slices.Compact(sorted) {
		if irq < 0 {
			return "", fmt.Errorf("interrupt %d: not a number of one", irq)
		}
		b.WriteString(" " + strconv.Itoa(irq))
	}
	if b.Len() > maxRequest {
		return "", fmt.Errorf("%d interrupts are %d bytes and its buffer takes %d: %w", len(irqs), b.Len(), maxRequest, ErrTooMany)
	}
	return b.String(), nil
}

// ask sends one request and reads until the daemon closes.
func (c Client) ask(request string) (string, error) {
	conn, err := c.dial()
	if err != nil {
		return "", err
	}
	defer conn.Close()
	limit := c.Patience
	if limit == 0 {
		limit = patience
	}
	if err := conn.SetDeadline(time.Now().Add(limit)); err != nil {
		return "", err
	}
	// The kernel adds our credentials, since the daemon asks for them with
	// SO_PASSCRED before it listens (net/unix/af_unix.c, maybe_add_creds). One
	// write is one message to its single recvmsg.
	if _, err := conn.Write([]byte(request)); err != nil {
		return "", fmt.Errorf("send %.40q: %w", request, err)
	}
	answer, err := io.ReadAll(io.LimitReader(conn, maxAnswer+1))
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return "", fmt.Errorf("it did not answer %.40q in %s: %w", request, limit, err)
	case err != nil:
		return "", fmt.Errorf("answer to %.40q: %w", request, err)
	case len(answer) > maxAnswer:
		return "", fmt.Errorf("answer to %.40q: more than %d bytes: %w", request, maxAnswer, host.ErrInconclusive)
	}
	return string(answer), nil
}

// dial finds the socket of the process that runs now.
func (c Client) dial() (net.Conn, error) {
	pids, err := c.PIDs()
	if err != nil {
		return nil, err
	}
	if len(pids) == 0 {
		return nil, fmt.Errorf("irqbalance is not running: %w", host.ErrUnsupported)
	}
	var errs []error
	for _, pid := range pids {
		for _, name := range c.sockets(pid) {
			conn, err := net.DialTimeout("unix", name, time.Second)
			if err == nil {
				return conn, nil
			}
			errs = append(errs, err)
		}
	}
	return nil, fmt.Errorf("irqbalance runs and has no socket (one before 1.5, or built without its user interface): %w", errors.Join(errs...))
}

// sockets are the places where versions have it: irqbalance.h, SOCKET_TMPFS,
// and init_socket for the nameless abstract one, which fills the address with zeros.
func (c Client) sockets(pid int) []string {
	const addressBytes = 108 // sizeof(struct sockaddr_un.sun_path)
	base := "irqbalance" + strconv.Itoa(pid) + ".sock"
	names := []string{filepath.Join(c.Root, "run/irqbalance", base), filepath.Join(c.Root, "run", base)}
	if c.Root == "/" {
		names = append(names, "@"+strings.Repeat("\x00", addressBytes-1))
	}
	return names
}

// ParseSetup reads the answer to "setup":
//
//	SLEEP 10 IRQ 45 LOAD 0 DIFF 0 CLASS 0 IRQ 46 LOAD … BANNED 00000000,00000003
func ParseSetup(answer string) (host.Irqbalance, error) {
	fields := strings.Fields(answer)
	bad := func(reason string) (host.Irqbalance, error) {
		return host.Irqbalance{}, fmt.Errorf("answer of irqbalance %.80q: %s: %w", answer, reason, host.ErrInconclusive)
	}
	if len(fields) < 4 || fields[0] != "SLEEP" {
		return bad("it is not SLEEP and BANNED")
	}
	var out host.Irqbalance
	var err error
	if out.Interval, err = number(fields[1]); err != nil {
		return bad(err.Error())
	}
	for fields = fields[2:]; fields[0] == "IRQ"; fields = fields[irqWords:] {
		if len(fields) <= irqWords || fields[2] != "LOAD" || fields[4] != "DIFF" || fields[6] != "CLASS" {
			return bad("an interrupt is cut short")
		}
		irq, err := number(fields[1])
		if err != nil {
			return bad(err.Error())
		}
		out.Banned = append(out.Banned, irq)
	}
	if fields[0] != "BANNED" || len(fields) != 2 {
		return bad("it does not end with the banned CPUs")
	}
	slices.Sort(out.Banned)
	out.Banned = slices.Compact(out.Banned)
	return out, nil
}

// irqWords are the words about one interrupt: IRQ n LOAD n DIFF n CLASS n.
const irqWords = 8

func number(text string) (int, error) {
	n, err := strconv.ParseUint(text, 10, 31)
	if err != nil {
		return 0, fmt.Errorf("%q is not a number", text)
	}
	return int(n), nil
}
