package fanout

import (
	"iter"

	"spillway/grip"
)

// Contents iterates over the contents of the items, without their frames.
func (b *Batch) Contents() iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		start := b.base
		for i := range b.entries {
			end := b.entries[i].end[b.form]
			if end > start && !yield(unframed(b.form, b.Frames[start-b.base:end-b.base])) {
				return
			}
			start = end
		}
	}
}

// Messages iterates over the items of a batch in the Message form.
func (b *Batch) Messages() iter.Seq2[grip.MessageType, []byte] {
	return func(yield func(grip.MessageType, []byte) bool) {
		start := b.base
		for i := range b.entries {
			e := &b.entries[i]
			end := e.end[Message]
			if e.kind[Message] == content && !yield(e.msg, unframed(Message, b.Frames[start-b.base:end-b.base])) {
				return
			}
			start = end
		}
	}
}
