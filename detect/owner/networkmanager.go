package owner

import (
	"path"
	"slices"
	"strconv"
	"strings"
)

// connectionDirs hold connections (nm-settings-keyfile(5)). The files are
// root's and hold secrets: only two sections of them are looked at.
var connectionDirs = [...]string{
	"etc/NetworkManager/system-connections", "run/NetworkManager/system-connections", "usr/lib/NetworkManager/system-connections",
}

// networkManager is what the ethtool settings of its connections set on devices.
func networkManager(f *finder) []Owner {
	if !f.runs("NetworkManager") {
		return nil
	}
	var out []Owner
	for _, dir := range connectionDirs {
		for _, name := range f.names(dir, ".nmconnection") {
			file := path.Join(dir, name)
			c := parseConnection(f.text(file), "/"+file)
			if devices := f.connected(c); len(c.claims) > 0 && len(devices) > 0 {
				out = append(out, c.owner(devices))
			}
		}
	}
	return out
}

// connection is the little of a connection that matters.
type connection struct {
	id, uuid, dev string // dev is "" for one that fits any device
	claims        []Claim
	names         []string // of the settings, as nmcli has them
}

func parseConnection(text, source string) connection {
	var c connection
	for _, s := range parseINI(text) {
		switch s.name {
		case "connection":
			c.id, c.uuid, c.dev = s.get("id"), s.get("uuid"), s.get("interface-name")
		case "ethtool":
			for _, p := range s.pairs {
				group, word, _ := strings.Cut(p.key, "-")
				if kind := ethtoolKind(group, word); kind != "" {
					c.claims = append(c.claims, Claim{Kind: kind, Value: p.value, Source: source})
					c.names = append(c.names, "ethtool."+p.key)
				}
			}
		}
	}
	return c
}

// connected are the devices that a connection is in force on, from
// NetworkManager's own notes (device state files); where it has none, the one that the connection names.
func (f *finder) connected(c connection) []string {
	var out []string
	for _, l := range f.links() {
		noted := ""
		for _, s := range parseINI(f.text("run/NetworkManager/devices/" + strconv.Itoa(l.Index))) {
			if s.name == "device" {
				noted = s.get("connection-uuid")
			}
		}
		if noted != "" && noted == c.uuid || noted == "" && c.dev != "" && c.dev == l.Name {
			out = append(out, l.Name)
		}
	}
	return out
}

func (c connection) owner(devices []string) Owner {
	o := Owner{
		Name: "NetworkManager", Habit: OnEvent, When: "when connection " + strconv.Quote(c.id) + " comes up",
		Remedy: "nmcli connection modify " + strconv.Quote(c.id),
	}
	for _, name := range slices.Compact(slices.Sorted(slices.Values(c.names))) {
		o.Remedy += " " + name + ` ""`
	}
	for _, dev := range devices {
		for _, claim := range c.claims {
			claim.Dev = dev
			o.Claims = append(o.Claims, claim)
		}
	}
	return o
}
