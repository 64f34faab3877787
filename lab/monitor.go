package lab

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// monitorPort is the serial port by which a guest asks the host's end to unplug
// its NICs. Requests are lines: a verb and the number of a NIC.
const monitorPort = "lab.monitor"

// Verbs of Hypervisor.
const (
	Unplug   = "unplug"    // take the NIC out, as a hypervisor's detach does
	Plug     = "plug"      // put the same NIC in again
	LinkDown = "link-down" // pull the cable
	LinkUp   = "link-up"
)

// unplugPatience bounds how long a guest may take to let go of a device: a root
// port waits five seconds for a change of mind before it powers a slot off
// (drivers/pci/hotplug/pciehp_ctrl.c, pciehp_handle_button_press), and emulated
// CPUs are slow.
const unplugPatience = 90 * time.Second

// Hypervisor has the host's end of a guest do something to NIC k, and blocks
// until it is done. It is for guests; fs.ErrNotExist: this is none.
func Hypervisor(verb string, nic int) error {
	names, err := filepath.Glob("/sys/class/virtio-ports/*/name")
	if err != nil {
		return err
	}
	for _, name := range names {
		label, err := os.ReadFile(name)
		if err != nil || strings.TrimSpace(string(label)) != monitorPort {
			continue
		}
		port, err := os.OpenFile("/dev/"+filepath.Base(filepath.Dir(name)), os.O_RDWR, 0)
		if err != nil {
			return fmt.Errorf("port to the hypervisor: %w", err)
		}
		defer port.Close()
		return request(port, verb, nic)
	}
	return fmt.Errorf("port to the hypervisor, %s in /sys/class/virtio-ports: %w", monitorPort, os.ErrNotExist)
}

func request(port io.ReadWriter, verb string, nic int) error {
	if _, err := fmt.Fprintf(port, "%s %d\n", verb, nic); err != nil {
		return fmt.Errorf("ask the hypervisor to %s NIC %d: %w", verb, nic, err)
	}
	answer, err := bufio.NewReader(port).ReadString('\n')
	if err != nil {
		return fmt.Errorf("%s NIC %d: the hypervisor's answer: %w", verb, nic, err)
	}
	if answer = strings.TrimSpace(answer); answer != "ok" {
		return fmt.Errorf("%s NIC %d: %s", verb, nic, answer)
	}
	return nil
}

// monitor is QEMU's control connection (docs/interop/qmp-spec.rst).
type monitor struct {
	out     *json.Encoder
	answers chan qmpMessage
	deleted chan string // IDs of devices that are gone
}

// qmpMessage is a greeting, an answer or an event.
type qmpMessage struct {
	Return json.RawMessage `json:"return"`
	Error  *struct {
		Desc string `json:"desc"`
	} `json:"error"`
	Event string `json:"event"`
	Data  struct {
		Device string `json:"device"`
	} `json:"data"`
}

// newMonitor talks to QEMU until the connection ends.
func newMonitor(connection io.ReadWriter) *monitor {
	q := &monitor{out: json.NewEncoder(connection), answers: make(chan qmpMessage, 1), deleted: make(chan string, 16)}
	go q.listen(connection)
	return q
}

func (q *monitor) listen(connection io.Reader) {
	defer close(q.answers)
	for in := json.NewDecoder(connection); ; {
		var m qmpMessage
		if err := in.Decode(&m); err != nil {
			return
		}
		switch {
		case m.Return != nil || m.Error != nil:
			q.answers <- m
		case m.Event == "DEVICE_DELETED" && m.Data.Device != "":
			select {
			case q.deleted <- m.Data.Device:
			default: // nobody has waited for the last sixteen
			}
		}
	}
}

func (q *monitor) execute(command string, arguments map[string]any) (json.RawMessage, error) {
	request := map[string]any{"execute": command}
	if arguments != nil {
		request["arguments"] = arguments
	}
	if err := q.out.Encode(request); err != nil {
		return nil, fmt.Errorf("%s: %w", command, err)
	}
	m, ok := <-q.answers
	if !ok {
		return nil, fmt.Errorf("%s: QEMU has gone", command)
	}
	if m.Error != nil {
		return nil, fmt.Errorf("%s: %s", command, m.Error.Desc)
	}
	return m.Return, nil
}

// typed runs a line as a person would type it: a device's description is then
// the one of the command line. What it prints is an error.
func (q *monitor) typed(line string) error {
	text, err := q.execute("human-monitor-command", map[string]any{"command-line": line})
	if err != nil {
		return err
	}
	var said string
	if err := json.Unmarshal(text, &said); err != nil {
		return fmt.Errorf("%s: %w", line, err)
	}
	if said = strings.TrimSpace(said); said != "" {
		return fmt.Errorf("%s: %s", line, said)
	}
	return nil
}

// serveMonitor does what a guest asks for, one line each, until it goes.
func (m Machine) serveMonitor(ctx context.Context, q *monitor, port io.ReadWriter) error {
	if _, err := q.execute("qmp_capabilities", nil); err != nil {
		return err
	}
	for lines := bufio.NewScanner(port); lines.Scan(); {
		answer := "ok"
		if err := m.obey(ctx, q, lines.Text()); err != nil {
			answer = strings.ReplaceAll(err.Error(), "\n", " ")
		}
		if _, err := fmt.Fprintln(port, answer); err != nil {
			return err
		}
	}
	return nil
}

func (m Machine) obey(ctx context.Context, q *monitor, line string) error {
	verb, number, _ := strings.Cut(line, " ")
	i, err := strconv.Atoi(number)
	if err != nil || i < 0 || i >= len(m.NICs) {
		return fmt.Errorf("%q: the machine has NICs 0 to %d", line, len(m.NICs)-1)
	}
	id := fmt.Sprintf("nic%d", i)
	switch verb {
	case Unplug:
		return q.unplug(ctx, id)
	case Plug:
		return q.typed("device_add " + m.nicDevice(i, m.NICs[i]))
	case LinkDown, LinkUp:
		_, err := q.execute("set_link", map[string]any{"name": id, "up": verb == LinkUp})
		return err
	}
	return fmt.Errorf("%q: there are %s, %s, %s, %s", verb, Unplug, Plug, LinkDown, LinkUp)
}

// unplug asks the guest to let go of a device and waits until it has.
func (q *monitor) unplug(ctx context.Context, id string) error {
	if _, err := q.execute("device_del", map[string]any{"id": id}); err != nil {
		return err
	}
	patience := time.NewTimer(unplugPatience)
	defer patience.Stop()
	for {
		select {
		case gone := <-q.deleted:
			if gone == id {
				return nil
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-patience.C:
			return errors.New("the guest does not let go of " + id)
		}
	}
}
