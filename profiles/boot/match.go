package boot

import (
	"path"
	"strconv"
	"strings"

	"github.com/napitune/napitune/detect"
)

// Match says which devices an entry is for: all that is given must hold.
type Match struct {
	// Driver, Bus and Name are wildcards as of path.Match; "" matches any.
	// Bus is the PCI address, "0000:00:05.0".
	Driver, Bus, Name string
	// MAC is a hardware address in lower case, "" for any. A bond's slave is
	// known by its own and not by that of the bond.
	MAC string
	// Queues is how many queues the device offers, 0 for any: see QueueCount.
	Queues int
}

// String is the match in words.
func (m Match) String() string {
	var out []string
	for _, part := range []struct{ what, value string }{
		{"driver", m.Driver}, {"bus", m.Bus}, {"name", m.Name}, {"MAC", m.MAC},
	} {
		if part.value != "" {
			out = append(out, part.what+" "+part.value)
		}
	}
	if m.Queues > 0 {
		out = append(out, "queues "+strconv.Itoa(m.Queues))
	}
	return strings.Join(out, ", ")
}

func (m Match) write(b *strings.Builder, indent string) {
	for _, part := range []struct{ key, value string }{
		{"driver", m.Driver}, {"bus", m.Bus}, {"name", m.Name}, {"mac", m.MAC},
	} {
		if part.value != "" {
			b.WriteString(indent + part.key + ": " + strconv.Quote(part.value) + "\n")
		}
	}
	if m.Queues > 0 {
		b.WriteString(indent + "queues: " + strconv.Itoa(m.Queues) + "\n")
	}
}

// Matches reports whether the entry is for a device.
func (m Match) Matches(d *detect.Device) bool {
	return m.matchesBesideQueues(d) && (m.Queues == 0 || m.Queues == QueueCount(d))
}

func (m Match) matchesBesideQueues(d *detect.Device) bool {
	return wildcard(m.Driver, d.Driver) && wildcard(m.Bus, d.Bus) && wildcard(m.Name, d.Name) && (m.MAC == "" || m.MAC == d.MAC)
}

func wildcard(pattern, text string) bool {
	if pattern == "" {
		return true
	}
	ok, err := path.Match(pattern, text)
	return ok && err == nil
}

// QueueCount is how many queues a device offers: the most of any kind that its
// channels can be set to, or the receive queues that it has where there is no
// such setting. Unlike the number in use it does not change with the profile.
func QueueCount(d *detect.Device) int {
	if c := d.Channels; c != nil {
		if most := max(c.MaxCombined, c.MaxRx, c.MaxTx); most > 0 {
			return most
		}
	}
	return queuesInUse(d)
}

// queuesInUse counts receive queues.
func queuesInUse(d *detect.Device) int {
	n := 0
	for i := range d.Queues {
		if d.Queues[i].Rx {
			n++
		}
	}
	return n
}
