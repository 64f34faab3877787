//go:build !urfave_cli_no_docs

package main

import (
	"os"
	"regexp"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/urfave/cli/v2"
)

// manTemplate replaces the library's, which has no place for exit status,
// environment and examples. The command list is the library's own.
const manTemplate = `% {{ .App.Name }} {{ .SectionNum }}

# NAME

{{ .App.Name }} - {{ .App.Usage }}

# SYNOPSIS

**napitune** [*COMMAND*] [*OPTIONS*] [*ARGUMENTS*]

# DESCRIPTION

napitune measures how this host receives and sends packets, says what is wrong and why, and proposes the exact
kernel and NIC settings that would mend it. Only **apply**, **rollback**, **boot** and **guard** change settings; all
else is advice.

Without a command, napitune advises. It reads the running machine or, with **--host**, a captured one.
Options may stand before or after the command.

# COMMANDS
{{ range $v := .Commands }}
{{ $v }}{{ end }}

# BOOT PROFILE

**napitune profile install** puts a profile in force at every boot and enables two units; with **--guard** a third.
**napitune-boot.service** sets what belongs to the whole host, before any network. A rule of udev starts
**napitune-device@NAME.service** for each device with hardware behind it, also for one that is plugged in later.
**napitune-settle.service** sets what is left once the network is configured and fails with a line for each setting that
cannot stand. Nobody can log in before both have ended, which takes ten seconds more where a device of the profile has
settings that exist only while it is up and nobody brings it up. Stopping a unit changes no setting.

When a device that is there already is brought up later, the kernel tells udev nothing, so that no rule can start a
unit then. Many drivers have queues and interrupts only while a device is up; what they take only then is set by
**napitune-guard.service** where it runs, or by **systemctl start napitune-device@NAME.service**. **napitune doctor**
names such devices.

The guard brings back what a link flap, other queues or CPU hotplug reset. What another program writes twice it leaves
to that program: **napitune status** and the finding contested-setting tell of it. The unit has no CAP_SYS_ADMIN, which
the kernel asks for before it names a writer; started by hand as root, the guard can name it.

# EXIT STATUS

**0**
: healthy, or done

**1**
: error

**2**
: advise found something to change

**3**
: apply was rolled back, because of an error, a signal or a missing confirmation: the host is as it was

**4**
: the host is neither as wanted nor as it was; the messages name the settings, and the journal is kept

**78**
: guard cannot read its profile; its unit is not started again

**130**
: interrupted before anything was changed

# FILES

**/run/napitune/**
: journals of what was applied since the boot, by boot ID; rollback works from them

**/var/lib/napitune/history.jsonl**
: what was ever applied and rolled back, one JSON document a line

**/etc/napitune/policy.yaml**
: the site's policy; it judges this machine unless --profile names another

**/etc/napitune/profile.yaml**
: the boot profile in force; napitune profile install puts it there

**/var/lib/napitune/profiles/**
: boot profiles that were saved

# ENVIRONMENT

**NO_COLOR**
: if set and not empty, nothing is coloured; so with TERM=dumb and where the output is no terminal

# EXAMPLES

What is wrong with this host, and what to change:

    napitune

Where the packets of one device go, measured for half a minute:

    napitune map --dev eth0 --for 30s

Record this host, and read the record on another machine:

    napitune capture -o host.txtar.gz
    napitune --host host.txtar.gz

The plan as a script for somebody who reviews first:

    napitune --format shell > plan.sh

Keep a plan, apply it after a look, and be put back if the connection to the host does not survive it:

    napitune advise -o plan.json
    napitune apply --confirm-within 60s plan.json
    napitune confirm

Keep what was applied and confirmed over boots:

    napitune profile save edge
    napitune profile install edge

# SEE ALSO

**ethtool**(8), **irqbalance**(1), **proc**(5)
`

// trailingSpace is what the converter leaves at the ends of lines.
var trailingSpace = regexp.MustCompile(`(?m)[ \t]+$`)

// The manual page is what the command definitions say.
func TestManPage(t *testing.T) {
	library := cli.MarkdownDocTemplate
	cli.MarkdownDocTemplate = manTemplate
	defer func() { cli.MarkdownDocTemplate = library }()
	got, err := newApp(env{}).ToManWithSection(8)
	if err != nil {
		t.Fatal(err)
	}
	got = trailingSpace.ReplaceAllString(got, "")
	if *update && got != manPage {
		t.Log("rewriting napitune.8")
		if err := os.WriteFile("napitune.8", []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(manPage, got); diff != "" {
		t.Errorf("napitune.8 (-committed +commands), go test ./cmd/napitune -update rewrites it:\n%s", diff)
	}
}
