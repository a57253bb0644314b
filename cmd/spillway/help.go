package main

import (
	"context"
	"fmt"
	"io"
	"strings"
)

func helpCommand() command {
	return command{
		name:    "help",
		summary: "explain a command; help config lists all variables",
		help: `  spillway help config | less
      every environment variable, its default and its meaning

Usage: spillway help [COMMAND | config]

Without an argument it lists the commands; with the name of one it prints what
that command's --help prints.
`,
		run: help,
	}
}

func help(_ context.Context, p *process, args []string) error {
	text := ""
	switch {
	case len(args) > 1:
		return wrongUsage("takes one argument, but got %d", len(args))
	case len(args) == 0:
		text = overview()
	case args[0] == "config":
		text = configText(configTable)
	default:
		cmd, err := findCommand(args[0])
		if err != nil {
			return err
		}
		text = cmd.help
	}
	_, err := io.WriteString(p.stdout, text)
	return err
}

func overview() string {
	var b strings.Builder
	b.WriteString(`  spillway demo
      sample topics, live at http://localhost:7999/events/test/

Usage: spillway COMMAND [options]

`)
	for _, c := range commands() {
		fmt.Fprintf(&b, "  %-9s %s\n", c.name, c.summary)
	}
	b.WriteString(`
spillway COMMAND --help explains a command, spillway help config the variables
that configure it. They are read from the environment and from .env.
Exit codes: 1 for a failure while running, 2 for wrong usage or configuration.
`)
	return b.String()
}

// configText lays the table out for a terminal of 80 columns:
//
//	NAME (_FILE)  default: 15s
//	    What it means, in as many
//	    lines as it takes.
func configText(table []setting) string {
	var b strings.Builder
	part := ""
	for _, s := range table {
		if s.part != part {
			part = s.part
			fmt.Fprintf(&b, "%s\n\n", strings.ToUpper(part))
		}
		b.WriteString("  " + s.name)
		if s.twin {
			b.WriteString(" (_FILE)")
		}
		if s.deflt != "" {
			b.WriteString("  default: " + s.deflt)
		}
		b.WriteByte('\n')
		for _, line := range wrap(s.doc, 72) {
			b.WriteString("      " + line + "\n")
		}
		b.WriteByte('\n')
	}
	b.WriteString(`Variables are read from the environment and from a file .env in the working
directory; the environment wins. For a name with (_FILE), NAME_FILE may name a
file that holds the value. Lists are comma separated.
`)
	return b.String()
}

// wrap breaks text at blanks into lines of at most width characters.
func wrap(text string, width int) (lines []string) {
	line := ""
	for _, word := range strings.Fields(text) {
		switch {
		case line == "":
			line = word
		case len([]rune(line))+1+len([]rune(word)) <= width:
			line += " " + word
		default:
			lines = append(lines, line)
			line = word
		}
	}
	if line != "" {
		lines = append(lines, line)
	}
	return lines
}
