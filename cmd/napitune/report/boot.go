package report

import (
	"fmt"
	"io"

	"github.com/napitune/napitune/apply"
	"github.com/napitune/napitune/profiles/boot"
)

// SchemaBoot is the schema of the answer of "napitune boot".
const SchemaBoot = "napitune/boot/v1"

// Boot is the answer of "napitune boot".
type Boot struct {
	Schema  string `json:"schema"`
	Profile string `json:"profile"`
	File    string `json:"file"`
	DryRun  bool   `json:"dry_run"`
	// Stood counts the settings that were right already.
	Stood int `json:"stood"`
	// Changes are those made, or with DryRun those to be made.
	Changes []apply.Outcome `json:"changes"`
	// Waiting are settings that a change to be made will create; only with DryRun.
	Waiting []string `json:"waiting"`
	// Problems are one line each, with the place in the file.
	Problems []string `json:"problems"`
	Warnings []string `json:"warnings"`
	// Transactions are the IDs for "napitune rollback".
	Transactions []string `json:"transactions"`
}

// NewBoot makes the document with nothing in it yet.
func NewBoot(profile, file string) Boot {
	return Boot{
		Schema: SchemaBoot, Profile: profile, File: file,
		Changes: []apply.Outcome{}, Waiting: []string{}, Problems: []string{}, Warnings: []string{}, Transactions: []string{},
	}
}

// Text writes the changes and one line of summary. The problems are not in it:
// they go to stderr.
func (b Boot) Text(w io.Writer, style Style) error {
	p := &page{w: w, style: style}
	for _, o := range b.Changes {
		line := clean(o.Ref.String()) + "  " + told(o.Before) + " → " + told(o.After)
		if !b.DryRun {
			line = clean(o.Ref.String()) + "  " + stepText(o)
		}
		p.line(line)
	}
	for _, ref := range b.Waiting {
		p.line(clean(ref) + "  once the changes above are made")
	}
	for _, warning := range b.Warnings {
		p.line("warning: " + clean(warning))
	}
	p.line(b.summary())
	return p.err
}

func (b Boot) summary() string {
	what := "set"
	if b.DryRun {
		what = "to be set"
	}
	text := fmt.Sprintf("boot profile %s: %s stood, %d %s", clean(b.Profile), plural(b.Stood, "setting"), len(b.Changes), what)
	if n := len(b.Problems); n > 0 {
		text += ", " + plural(n, "problem")
	}
	for _, id := range b.Transactions {
		text += "; napitune rollback " + id + " undoes it"
	}
	return text
}

// SchemaBootProfile is the schema of a boot profile as an answer.
const SchemaBootProfile = "napitune/boot-profile/v1"

// BootProfile is the answer of "napitune profile check" about a boot profile.
type BootProfile struct {
	Schema      string            `json:"schema"`
	Name        string            `json:"name"`
	File        string            `json:"file"`
	Description string            `json:"description"`
	Host        int               `json:"host_settings"`
	Devices     []BootProfileItem `json:"devices"`
	// Solves: some values are worked out on every host.
	Solves bool `json:"solves"`
}

// BootProfileItem is one entry of a boot profile.
type BootProfileItem struct {
	Match    string `json:"match"`
	Settings int    `json:"settings"`
	Optional bool   `json:"optional"`
}

// NewBootProfile describes a profile.
func NewBootProfile(b boot.Profile, file string) BootProfile {
	out := BootProfile{
		Schema: SchemaBootProfile, Name: b.Name, File: file, Description: b.Description,
		Host: len(b.Host), Devices: []BootProfileItem{}, Solves: b.Solves(),
	}
	for _, e := range b.Entries {
		out.Devices = append(out.Devices, BootProfileItem{Match: e.Match.String(), Settings: len(e.Settings), Optional: e.Optional})
	}
	return out
}

// Text writes a line for each part.
func (b BootProfile) Text(w io.Writer, style Style) error {
	p := &page{w: w, style: style}
	p.hang(clean(b.Name), bold, 2, b.Description)
	p.line("  the host: " + plural(b.Host, "setting"))
	for _, d := range b.Devices {
		p.line("  " + clean(d.Match) + ": " + plural(d.Settings, "setting"))
	}
	return p.err
}

// BootContents says in a few words how much a profile holds.
func BootContents(b boot.Profile) string {
	settings := 0
	for _, e := range b.Entries {
		settings += len(e.Settings)
	}
	text := plural(len(b.Host), "setting") + " of the host, " + plural(settings, "setting") + " for " + plural(len(b.Entries), "kind") + " of device"
	if b.Solves() {
		text += "; CPUs are worked out on every host"
	}
	return text
}
