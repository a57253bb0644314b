package fanout

// Known reports whether all of these are foreign channels whose logs have the
// items that the prev-ids name: a stream that attaches there misses nothing.
func (e *Engine) Known(wants []Want) bool {
	for _, w := range wants[:min(len(wants), MaxSubscriptions)] {
		e.mu.RLock()
		ch := e.channels[w.Channel]
		e.mu.RUnlock()
		if ch == nil || !w.HasPrevID || !ch.knows(w.PrevID) {
			return false
		}
	}
	return true
}

func (ch *channel) knows(id string) bool {
	ch.mu.Lock()
	defer ch.mu.Unlock()
	if ch.dead || !ch.foreign() {
		return false
	}
	_, ok := ch.seqOf(id)
	return ok
}
