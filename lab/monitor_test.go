package lab

import (
	"bufio"
	"encoding/json"
	"net"
	"strings"
	"testing"
)

// qemu answers as QEMU's monitor does: a greeting, then one answer to each
// command; a device is gone some time after it was asked for.
func qemu(t *testing.T, connection net.Conn, typed chan<- string) {
	in, out := json.NewDecoder(connection), json.NewEncoder(connection)
	say := func(v any) {
		if err := out.Encode(v); err != nil {
			t.Log(err)
		}
	}
	say(map[string]any{"QMP": map[string]any{}})
	plugged := true
	for {
		var command struct {
			Execute   string         `json:"execute"`
			Arguments map[string]any `json:"arguments"`
		}
		if in.Decode(&command) != nil {
			return
		}
		line, _ := command.Arguments["command-line"].(string)
		switch {
		case command.Execute == "device_del" && !plugged:
			say(map[string]any{"error": map[string]any{"class": "DeviceNotFound", "desc": "Device 'nic0' not found"}})
		case command.Execute == "device_del":
			plugged = false
			say(map[string]any{"return": map[string]any{}})
			say(map[string]any{"event": "DEVICE_DELETED", "data": map[string]any{"path": "/machine/peripheral/nic0/virtio-backend"}})
			say(map[string]any{"event": "DEVICE_DELETED", "data": map[string]any{"device": "nic0", "path": "/machine/peripheral/nic0"}})
		case command.Execute == "human-monitor-command" && plugged:
			say(map[string]any{"return": "Error: Duplicate device ID 'nic0'\r\n"})
		case command.Execute == "human-monitor-command":
			plugged = true
			typed <- line
			say(map[string]any{"return": ""})
		default:
			say(map[string]any{"return": map[string]any{}})
		}
	}
}

// A guest has its NIC unplugged and plugged in again, the same as at the start,
// and is told what QEMU refuses.
func TestHypervisor(t *testing.T) {
	m, err := Machine{NICs: []NIC{{Model: "virtio", Queues: 4, RSS: true, Port: true}}}.Normalize()
	if err != nil {
		t.Fatal(err)
	}
	control, qemuEnd := net.Pipe()
	port, guestEnd := net.Pipe()
	typed := make(chan string, 8)
	go qemu(t, qemuEnd, typed)
	served := make(chan error, 1)
	go func() { served <- m.serveMonitor(t.Context(), newMonitor(control), port) }()
	for _, step := range []struct{ verb, refused string }{
		{Unplug, ""},
		{Unplug, "Device 'nic0' not found"},
		{Plug, ""},
		{Plug, "Duplicate device ID 'nic0'"},
		{LinkDown, ""},
		{LinkUp, ""},
		{"burn", "there are unplug, plug"},
	} {
		err := request(guestEnd, step.verb, 0)
		if (err == nil) != (step.refused == "") || err != nil && !strings.Contains(err.Error(), step.refused) {
			t.Errorf("%s: %v", step.verb, err)
		}
	}
	if err := request(guestEnd, Unplug, 1); err == nil || !strings.Contains(err.Error(), "NICs 0 to 0") {
		t.Errorf("a NIC that is not there: %v", err)
	}
	line := <-typed
	if want := "device_add virtio-net-pci,id=nic0,netdev=net0,mac=52:54:00:99:00:02,romfile=,bus=port0,mq=on,vectors=10,rss=on"; line != want {
		t.Errorf("plugged with %q, want %q", line, want)
	}
	if args := strings.Join(m.arguments(Cache{"/cache"}, "/run", ""), " "); !strings.Contains(args, strings.TrimPrefix(line, "device_add ")) ||
		!strings.Contains(args, "pcie-root-port,id=port0,bus=pcie.0") {
		t.Errorf("started with %s", args)
	}
	guestEnd.Close()
	if err := <-served; err != nil {
		t.Errorf("served: %v", err)
	}
	control.Close()
	qemuEnd.Close()
}

// What a guest asks for is never a command of its own for the monitor.
func FuzzObey(f *testing.F) {
	for _, line := range []string{"unplug 0", "plug 0", "link-up 0", "plug -1", "plug 0\nquit", "device_add 0", ""} {
		f.Add(line)
	}
	m, err := Machine{NICs: []NIC{{Model: "virtio", Queues: 1, Port: true}}}.Normalize()
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, line string) {
		control, qemuEnd := net.Pipe()
		defer qemuEnd.Close()
		q := newMonitor(control)
		go func() {
			for lines := bufio.NewScanner(qemuEnd); lines.Scan(); {
				if !strings.Contains(lines.Text(), "nic0") {
					t.Errorf("%q has QEMU do %s", line, lines.Text())
				}
				_, _ = qemuEnd.Write([]byte(`{"error":{"desc":"no"}}` + "\n"))
			}
		}()
		if err := m.obey(t.Context(), q, line); err == nil {
			t.Errorf("%q: done", line)
		}
	})
}
