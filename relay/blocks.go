package relay

import (
	"container/list"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sort"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"golang.org/x/sync/errgroup"

	"spillway/relay/properties"
)

const (
	// blockFetchBytes is what one read of history asks of a partition. Kafka
	// answers with at least one batch, however large.
	blockFetchBytes = 256 << 10
	// blockFetchMinBytes is the least, and blockRecordBytes what a record is
	// taken for where few are wanted.
	blockFetchMinBytes = 16 << 10
	blockRecordBytes   = 1 << 10
	// blockGridBytes is about how far apart the places are where blocks begin, in
	// memory, so that readers with neighbouring offsets share one. For whoever
	// wants a few records about so much is read too many.
	blockGridBytes = 128 << 10
	// blockMaxBytes is about how much memory a block takes at most, or one of
	// blocksInCache parts of the cache.
	blockMaxBytes = 4 << 20
	blocksInCache = 16
	// blockFetchMaxBytes bounds the answer for all partitions of one broker.
	blockFetchMaxBytes = 16 << 20
	// undecodableRest is how long a block is shared that has records which
	// another try may decode.
	undecodableRest = 2 * time.Second
	// fetchAttempts bounds how often a block is asked for while leaders move.
	fetchAttempts = 5
	// fetchBackoff is how much longer each attempt waits than the one before.
	fetchBackoff = 100 * time.Millisecond
)

// An outOfRangeError says that the log begins at start and ends at end, and the
// offset that was asked for is not within.
type outOfRangeError struct{ start, end int64 }

func (e *outOfRangeError) Error() string {
	return fmt.Sprintf("offset out of range: the log is [%d, %d)", e.start, e.end)
}

// A blockKey names one partition in one life of a topic.
type blockKey struct {
	id        kadm.TopicID
	topic     string
	partition int32
}

// A blockWant is the offset of a record that somebody wants, and what is to be
// fetched for it.
type blockWant struct {
	info      *topicInfo
	partition int32
	offset    int64
	end       int64 // records from here on are not wanted now

	limit int64 // where the block ends, since another begins there; 0: nowhere
	bytes int32 // to ask for
}

func (w *blockWant) key() blockKey { return blockKey{w.info.id, w.info.name, w.partition} }

// blocks reads history, and shares what it read: two requests for the same
// range are one fetch, and a block stays until HISTORY_CACHE_BYTES are full.
type blocks struct {
	client   *kgo.Client
	catalog  *catalog
	offsets  *offsets
	decoder  *decoder
	settings properties.FetchSettings
	maxBytes int64
	pool     recordPool

	loads sync.WaitGroup // fetches under way; each ends by its own timeout

	mu      sync.Mutex
	byPart  map[blockKey]*blockList
	recent  *list.List // of *blockEntry, newest use in front
	bytes   int64
	fetches prometheus.Counter
	hits    prometheus.Counter
	read    prometheus.Counter
	looked  prometheus.Counter
}

// A blockList is what is known of one partition, as long as there are blocks of it.
type blockList struct {
	entries []*blockEntry // by offset
	begin   int64         // where the log began when it was last heard of
	offset  offsetBytes   // about
}

// offsetBytes is what one offset takes.
type offsetBytes struct {
	stored float64 // by the broker, compressed; 0: not known yet
	kept   float64 // by a block
}

// A blockEntry is a block, or the promise of one.
type blockEntry struct {
	key    blockKey
	offset int64         // what was asked for; block.start equals it
	expect int64         // where it is expected to end, while it is a promise
	ready  chan struct{} // closed when block or err is set
	block  *block
	err    error
	use    *list.Element // nil while it is not ready, and when it is forgotten
	bytes  int64         // what it counts for
}

func newBlocks(client *kgo.Client, cat *catalog, offsets *offsets, decoder *decoder, settings properties.FetchSettings, maxBytes int64, reg prometheus.Registerer) *blocks {
	b := &blocks{
		client:   client,
		catalog:  cat,
		offsets:  offsets,
		decoder:  decoder,
		settings: settings,
		maxBytes: maxBytes,
		byPart:   make(map[blockKey]*blockList),
		recent:   list.New(),
		fetches: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "spillway_history_fetches_total", Help: "Blocks of history that were read from Kafka.",
		}),
		hits: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "spillway_history_hits_total", Help: "Reads of history that shared a block.",
		}),
	}
	b.read = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "spillway_history_bytes_total", Help: "Bytes of record batches that were read from Kafka for history.",
	})
	b.looked = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "spillway_history_filtered_total", Help: "Records of history that were looked at for a filter.",
	})
	reg.MustRegister(b.fetches, b.hits, b.read, b.looked, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "spillway_history_cache_bytes", Help: "Bytes of history blocks held; HISTORY_CACHE_BYTES bounds them.",
	}, func() float64 {
		b.mu.Lock()
		defer b.mu.Unlock()
		return float64(b.bytes)
	}))
	return b
}

// get returns the blocks that hold the wanted offsets. Those that are missing
// are fetched together, one request per broker. errs[i] is nil, an
// *outOfRangeError, or errUnavailable.
func (b *blocks) get(ctx context.Context, wants []blockWant) (got []*block, errs []error) {
	got, errs = make([]*block, len(wants)), make([]error, len(wants))
	entries := make([]*blockEntry, len(wants))
	left := make([]int, len(wants))
	for i := range left {
		left[i] = i
	}
	for look := 1; len(left) > 0; look++ {
		b.look(ctx, wants, left, entries, look > sharedLooks)
		again := left[:0]
		for _, i := range left {
			e := entries[i]
			select {
			case <-e.ready:
				if e.answers(wants[i].offset) {
					got[i], errs[i] = e.block, e.err
				} else {
					again = append(again, i)
				}
			case <-ctx.Done():
				errs[i] = unavailable("read history", ctx.Err())
			}
		}
		left = again
	}
	return got, errs
}

// have puts the blocks that hold the wanted offsets into got, if all of them are
// there.
func (b *blocks) have(wants []blockWant, got []*block) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	for i, w := range wants {
		list := b.byPart[w.key()]
		if list == nil {
			return false
		}
		at := list.search(w.offset)
		if at == 0 {
			return false
		}
		e := list.entries[at-1]
		if e.block == nil || w.offset >= e.block.next || e.isOver() {
			return false
		}
		b.recent.MoveToFront(e.use)
		got[i] = e.block
	}
	b.hits.Add(float64(len(wants)))
	return true
}

// reach is about how many offsets of topics fit half of the cache.
func (b *blocks) reach(topics []*topicInfo) int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, info := range topics {
		for p := range min(info.partitions(), mergeWidth) {
			if l := b.byPart[blockKey{info.id, info.name, int32(p)}]; l != nil && l.offset.kept > 0 {
				return int64(float64(b.maxBytes/2) / l.offset.kept)
			}
		}
	}
	return 0
}

// sharedLooks is how often a reader waits for what others fetch, which may turn
// out to end before what it wants.
const sharedLooks = 2

// look finds the entries of some of the wants, and fetches those that are missing.
func (b *blocks) look(ctx context.Context, wants []blockWant, which []int, entries []*blockEntry, alone bool) {
	var mine []*blockEntry
	var fetch []blockWant
	b.mu.Lock()
	for _, i := range which {
		e, w, found := b.find(wants[i], alone)
		if !found {
			mine, fetch = append(mine, e), append(fetch, w)
		} else {
			b.hits.Inc()
		}
		entries[i] = e
	}
	b.mu.Unlock()
	if len(mine) == 0 {
		return
	}
	b.fetches.Add(float64(len(mine)))
	// Others may wait for these too, so our client's leaving must not fail them.
	b.loads.Go(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), listOffsetsTimeout)
		defer cancel()
		b.fetchAll(ctx, fetch, mine)
	})
}

// answers reports whether what became of a promise is for offset too.
func (e *blockEntry) answers(offset int64) bool {
	if e.err == nil {
		return e.block.start <= offset && offset < e.block.next
	}
	var gone *outOfRangeError
	return e.offset == offset || !errors.As(e.err, &gone) || offset < gone.start || gone.end < offset
}

// find returns the entry that has w, or may turn out to; else a new promise, and
// what is to be fetched for it. alone is for who has waited for others in vain.
// Call with mu held.
func (b *blocks) find(w blockWant, alone bool) (e *blockEntry, fetch blockWant, found bool) {
	key := w.key()
	list := b.byPart[key]
	if list == nil {
		list = &blockList{}
		b.byPart[key] = list
	}
	i := list.search(w.offset)
	if i > 0 && list.entries[i-1].isOver() {
		b.discard(list.entries[i-1])
		return b.find(w, alone)
	}
	if e := list.has(w.offset, i, alone); e != nil {
		if e.use != nil {
			b.recent.MoveToFront(e.use)
		}
		return e, w, true
	}
	var expect int64
	w, expect = list.plan(w, i, alone, b.maxBytes)
	e = &blockEntry{key: key, offset: w.offset, expect: expect, ready: make(chan struct{})}
	list.entries = slices.Insert(list.entries, i, e)
	return e, w, false
}

// search is how many entries begin at or before offset.
func (l *blockList) search(offset int64) int {
	return sort.Search(len(l.entries), func(i int) bool { return l.entries[i].offset > offset })
}

// isOver reports whether the block is not to be shared any more.
func (e *blockEntry) isOver() bool {
	return e.block != nil && !e.block.until.IsZero() && time.Now().After(e.block.until)
}

// has returns the entry that has the record at offset, or may turn out to. The
// entries before number i begin at or before it.
func (l *blockList) has(offset int64, i int, alone bool) *blockEntry {
	if i > 0 {
		switch e := l.entries[i-1]; {
		case e.offset == offset, e.block != nil && offset < e.block.next, e.block == nil && offset < e.expect && !alone:
			return e
		}
	}
	if l.offset.stored == 0 && len(l.entries) > 0 && !alone {
		return l.entries[0] // the first answer tells how much to ask for
	}
	return nil
}

// learn takes what one block has for an offset into account.
func (o *offsetBytes) learn(one offsetBytes) {
	if o.stored == 0 {
		*o = one
		return
	}
	o.stored += (one.stored - o.stored) / 4
	o.kept += (one.kept - o.kept) / 4
}

// grid is how many offsets apart the places are where blocks begin: a power of
// two, so that it stays the same, or one divides the other, when the means change.
func (o offsetBytes) grid() int64 {
	n := int64(1)
	for float64(2*n)*o.kept <= blockGridBytes && n < 1<<30 {
		n *= 2
	}
	return n
}

// plan says what to fetch for w, and where that is expected to end: from a place
// of the grid on, which others come to as well, and not what there is already.
func (l *blockList) plan(w blockWant, i int, alone bool, maxBytes int64) (fetch blockWant, expect int64) {
	stored := l.offset.stored
	if stored == 0 {
		stored = blockRecordBytes
	} else {
		grid := l.offset.grid()
		if !alone {
			from := max(w.offset&^(grid-1), l.begin)
			if i > 0 {
				if before := l.entries[i-1]; before.block != nil {
					from = max(from, before.block.next)
				} else {
					from = max(from, before.expect)
				}
			}
			w.offset = min(from, w.offset)
		}
		most := max(int64(float64(min(blockMaxBytes, maxBytes/blocksInCache))/l.offset.kept), grid)
		w.end = min((w.end-1)&^(grid-1)+grid, w.offset+most)
	}
	if i < len(l.entries) {
		w.limit = l.entries[i].offset
		w.end = min(w.end, w.limit)
	}
	w.bytes = int32(min(float64(w.end-w.offset)*stored+blockFetchMinBytes, blockFetchBytes))
	return w, min(w.end, w.offset+max(int64(float64(w.bytes)/stored), 1))
}

// settle fulfils a promise. A failed one is forgotten at once.
func (b *blocks) settle(e *blockEntry, blk *block, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if blk != nil {
		blk.entry = e
	}
	e.block, e.err = blk, err
	close(e.ready)
	list := b.byPart[e.key]
	var gone *outOfRangeError
	if err != nil {
		if errors.As(err, &gone) {
			list.begin = gone.start
		}
		b.forget(e)
		return
	}
	list.begin = max(list.begin, blk.logStart)
	list.offset.learn(blk.offset)
	e.use = b.recent.PushFront(e)
	e.bytes = blk.bytes
	b.bytes += e.bytes
	b.shrink()
}

// grown notes that a block has come to use more memory.
func (b *blocks) grown(blk *block, bytes int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if e := blk.entry; e.use != nil {
		e.bytes += bytes
		b.bytes += bytes
		b.shrink()
	}
}

// shrink forgets blocks until the others fit. Call with mu held.
func (b *blocks) shrink() {
	for b.bytes > b.maxBytes && b.recent.Len() > 1 {
		b.discard(b.recent.Back().Value.(*blockEntry))
	}
}

// discard lets go of a block. Call with mu held.
func (b *blocks) discard(old *blockEntry) {
	b.recent.Remove(old.use)
	old.use = nil
	b.bytes -= old.bytes
	b.forget(old)
}

// forget takes an entry out of the look-up. Call with mu held.
func (b *blocks) forget(e *blockEntry) {
	list := b.byPart[e.key]
	list.entries = slices.DeleteFunc(list.entries, func(have *blockEntry) bool { return have == e })
	if len(list.entries) == 0 {
		delete(b.byPart, e.key)
	}
}

// fetchAll reads every want and settles its entry.
func (b *blocks) fetchAll(ctx context.Context, wants []blockWant, entries []*blockEntry) {
	pending := make(map[int]error, len(wants)) // index → the latest reason that it is not there
	for i := range wants {
		pending[i] = nil
	}
	for attempt := 0; attempt < fetchAttempts && len(pending) > 0 && ctx.Err() == nil; attempt++ {
		if attempt > 0 {
			// Leaders moved, or a broker went away: look again where they are.
			// An election takes a moment.
			wait(ctx, time.Duration(attempt-1)*fetchBackoff)
			_ = b.catalog.refresh(ctx) // without it, the old leaders are tried again
		}
		byLeader := make(map[int32][]int)
		for i := range pending {
			leader := b.leader(wants[i])
			if leader < 0 {
				pending[i] = errors.New("partition has no leader")
				continue
			}
			byLeader[leader] = append(byLeader[leader], i)
		}
		var mu sync.Mutex
		var g errgroup.Group
		for leader, indexes := range byLeader {
			g.Go(func() error {
				results, err := b.fetch(ctx, leader, wants, indexes)
				for i, r := range results {
					if errors.Is(r.err, kerr.OffsetOutOfRange) {
						results[i] = fetched{err: b.outOfRange(ctx, wants[i])}
					}
				}
				mu.Lock()
				defer mu.Unlock()
				for _, i := range indexes {
					r, ok := results[i]
					switch {
					case err != nil:
						pending[i] = err
					case !ok:
						pending[i] = errors.New("the broker's answer left the partition out")
					case r.block != nil, isOutOfRange(r.err):
						b.settle(entries[i], r.block, r.err)
						delete(pending, i)
					default:
						pending[i] = r.err
					}
				}
				return nil
			})
		}
		_ = g.Wait() // the reasons are in pending
	}
	for i, err := range pending {
		if err == nil {
			err = ctx.Err()
		}
		b.settle(entries[i], nil, unavailable(fmt.Sprintf("read %s/%d at %d", wants[i].info.name, wants[i].partition, wants[i].offset), err))
	}
}

// outOfRange asks where the log begins and ends now, since the answer to a
// fetch leaves that out. The error is an *outOfRangeError, or why it is not
// known, or that the offset is there after all.
func (b *blocks) outOfRange(ctx context.Context, w blockWant) error {
	starts, err := b.offsets.starts(ctx, w.info.name, int(w.partition)+1)
	if err != nil {
		return err
	}
	ends, err := b.offsets.highWatermarks(ctx, w.info.name, int(w.partition)+1)
	if err != nil {
		return err
	}
	start, end := starts[w.partition], ends[w.partition]
	if start <= w.offset && w.offset <= end {
		return fmt.Errorf("offset was out of range, and is within [%d, %d] now", start, end)
	}
	return &outOfRangeError{start, end}
}

func isOutOfRange(err error) bool {
	var e *outOfRangeError
	return errors.As(err, &e)
}

// leader is the broker to ask, by the newest metadata of the same topic.
func (b *blocks) leader(w blockWant) int32 {
	info := w.info
	b.catalog.mu.Lock()
	if now := b.catalog.topics[info.name]; now != nil && now.id == info.id {
		info = now
	}
	b.catalog.mu.Unlock()
	if int(w.partition) >= info.partitions() {
		return -1
	}
	return info.leaders[w.partition]
}

type fetched struct {
	block *block
	err   error
}

// fetch sends one request to one broker.
func (b *blocks) fetch(ctx context.Context, leader int32, wants []blockWant, indexes []int) (map[int]fetched, error) {
	req := kmsg.NewPtrFetchRequest()
	req.MaxWaitMillis = int32(b.settings.MaxWait / time.Millisecond)
	req.MinBytes = 1
	req.MaxBytes = blockFetchMaxBytes
	if b.settings.ReadCommitted {
		req.IsolationLevel = 1
	}
	at := make(map[string]int)
	for _, i := range indexes {
		w := wants[i]
		t, ok := at[w.info.name]
		if !ok {
			t = len(req.Topics)
			at[w.info.name] = t
			rt := kmsg.NewFetchRequestTopic()
			rt.Topic, rt.TopicID = w.info.name, w.info.id
			req.Topics = append(req.Topics, rt)
		}
		rp := kmsg.NewFetchRequestTopicPartition()
		rp.Partition, rp.FetchOffset, rp.PartitionMaxBytes = w.partition, w.offset, w.bytes
		req.Topics[t].Partitions = append(req.Topics[t].Partitions, rp)
	}
	kresp, err := b.client.Broker(int(leader)).RetriableRequest(ctx, req)
	if err != nil {
		return nil, err
	}
	resp := kresp.(*kmsg.FetchResponse)
	if err := kerr.ErrorForCode(resp.ErrorCode); err != nil {
		return nil, err
	}
	results := make(map[int]fetched, len(indexes))
	for _, rt := range resp.Topics {
		for j := range rt.Partitions {
			rp := &rt.Partitions[j]
			for _, i := range indexes {
				w := wants[i]
				if w.partition == rp.Partition && (w.info.name == rt.Topic || (rt.Topic == "" && w.info.id == kadm.TopicID(rt.TopicID))) {
					if r, ok := results[i]; ok && r.block != nil {
						continue
					}
					results[i] = b.decode(ctx, w, rp)
				}
			}
		}
	}
	return results, nil
}

func (b *blocks) decode(ctx context.Context, w blockWant, rp *kmsg.FetchResponseTopicPartition) fetched {
	opts := kgo.ProcessFetchPartitionOpts{
		KeepControlRecords:   true, // so that the block ends after them
		DisableCRCValidation: !b.settings.CheckCRCs,
		Offset:               w.offset,
		Topic:                w.info.name,
		Partition:            w.partition,
		Pools:                []kgo.Pool{&b.pool},
	}
	if b.settings.ReadCommitted {
		opts.IsolationLevel = kgo.ReadCommitted()
	}
	fp, next := kgo.ProcessFetchPartition(opts, rp, kgo.DefaultDecompressor(), nil)
	if errors.Is(fp.Err, kerr.OffsetOutOfRange) {
		return fetched{err: fp.Err} // it does not say where the log begins: see outOfRange
	}
	if fp.Err != nil {
		return fetched{err: fp.Err}
	}
	if next <= w.offset {
		return fetched{err: errors.New("no records yet")}
	}
	b.read.Add(float64(len(rp.RecordBatches)))
	stored := storedBytes(rp.RecordBatches, w.offset, next)
	if w.limit > 0 {
		next = min(next, w.limit) // the broker's batches know nothing of our blocks
	}
	defer func() {
		for _, r := range fp.Records {
			r.Recycle() // the block has a copy
		}
	}()
	records := make([]*kgo.Record, 0, len(fp.Records))
	for _, r := range fp.Records {
		if !r.Attrs.IsControl() && w.offset <= r.Offset && r.Offset < next {
			records = append(records, r)
		}
	}
	records, left, err := b.decoder.decode(ctx, w.info.name, records)
	if err != nil {
		return fetched{err: fmt.Errorf("decode: %w", err)}
	}
	if len(left) > 0 {
		next = left[0].Offset
	}
	blk := newBlock(w, next, records)
	blk.offset = offsetBytes{stored, float64(blk.bytes) / float64(next-w.offset)}
	blk.logStart = rp.LogStartOffset
	return fetched{block: blk}
}

// storedBytes is how much a broker has for one offset. Its answer begins with
// a whole batch, whose base offset is the first thing in it.
func storedBytes(batches []byte, from, next int64) float64 {
	if len(batches) >= 8 {
		if base := int64(binary.BigEndian.Uint64(batches)); 0 <= base && base < from {
			from = base
		}
	}
	return max(float64(len(batches)), 1) / float64(next-from)
}

// wait waits for d, or until ctx ends.
func wait(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
