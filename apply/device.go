package apply

import (
	"errors"
	"fmt"
	"slices"

	"github.com/napitune/napitune/detect/knob"
	"github.com/napitune/napitune/rules/plan"
)

// devices finds the devices of a journal among those that are there by now.
// Names do not tell: a device may have been renamed, and another may have taken
// the name, whose settings are none of the journal's business.
type devices struct{ was, now plan.Origin }

// find gives a device of the journal, by its name there, and what it is by now.
// The error says in words why it is not there. Of a device that the journal does
// not describe there is only the name.
//
// An interface index is never given twice, and a renaming keeps it. A device on
// a bus that was plugged in again has a new one and is the same device there.
func (d devices) find(name string) (was, is plan.OriginDevice, err error) {
	at := slices.IndexFunc(d.was.Devices, func(was plan.OriginDevice) bool { return was.Name == name })
	if at < 0 {
		only := plan.OriginDevice{Name: name}
		return only, only, nil
	}
	was = d.was.Devices[at]
	var alike []plan.OriginDevice
	for _, is := range d.now.Devices {
		switch {
		case is.Driver != was.Driver || is.Bus != was.Bus || d.other(is, name):
		case was.Index != 0 && is.Index == was.Index:
			return was, is, nil
		case was.Bus != "" || was.Index == 0 || is.Index == 0:
			alike = append(alike, is)
		}
	}
	// Some functions of a bus have several devices; then the name decides as well.
	alone := was.Bus != "" && len(alike) == 1 && d.ports(was.Bus) == 1
	for _, is := range alike {
		if alone || is.Name == name {
			return was, is, nil
		}
	}
	return was, plan.OriginDevice{}, d.gone(was)
}

// other reports whether a device is certainly another one of the journal's.
func (d devices) other(is plan.OriginDevice, name string) bool {
	return slices.ContainsFunc(d.was.Devices, func(was plan.OriginDevice) bool {
		return was.Name != name && was.Index != 0 && was.Index == is.Index
	})
}

// ports counts the devices of one bus address.
func (d devices) ports(bus string) int {
	n := 0
	for _, was := range d.was.Devices {
		if was.Bus == bus {
			n++
		}
	}
	return n
}

// forGood reports whether a device is gone and will not come back: one without a bus
// address that is made anew is another one.
func (d devices) forGood(name string) bool {
	was, _, err := d.find(name)
	return err != nil && was.Bus == ""
}

// gone says why a device is not there.
func (d devices) gone(was plan.OriginDevice) error {
	at := slices.IndexFunc(d.now.Devices, func(is plan.OriginDevice) bool { return is.Name == was.Name })
	if at < 0 {
		return absent(was.Name)
	}
	is := d.now.Devices[at]
	if is.Driver == was.Driver && is.Bus == was.Bus {
		return errors.New(anew(was, is))
	}
	return fmt.Errorf("%s is another device by now (%s %s, was %s %s)", was.Name, is.Driver, is.Bus, was.Driver, was.Bus)
}

// absent is the error for a device of which nothing is there.
func absent(name string) error {
	return fmt.Errorf("there is no device %s in this network namespace", name)
}

func anew(was, is plan.OriginDevice) string {
	return fmt.Sprintf("the device was made anew since (interface index %d, now %d)", was.Index, is.Index)
}

// remade says that a device has been plugged in again, "" if it has not.
func (d devices) remade(name string) string {
	was, is, err := d.find(name)
	if err != nil || was.Index == 0 || is.Index == 0 || was.Index == is.Index {
		return ""
	}
	return anew(was, is)
}

// ref is the present address of a setting of the journal.
func (d devices) ref(ref knob.Ref) (knob.Ref, error) {
	_, is, err := d.find(ref.Dev)
	if err != nil {
		return ref, err
	}
	ref.Dev = is.Name
	return ref, nil
}
