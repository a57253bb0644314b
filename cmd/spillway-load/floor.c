//go:build ignore

// The floor in C: see floor_linux.go, whose protocol and bytes are the same. It
// is compiled when it is measured (cc -O2 -pthread), and is no part of the Go
// program.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define ID "1-hi3hk-4fz1q.1.2s00"
#define AT_ONCE 1024

// A client. fd is -1 when it is gone.
struct slot {
	int fd, channel;
	size_t sent; // of its channel's run
};

// What a channel's clients are sent in a step: slots[first] to slots[last-1].
struct run {
	char *bytes;
	size_t len, cap;
	int first, last, dirty;
};

struct plan {
	long long first, count, beat, channels, group, size, start;
	double rate;
};

static pthread_mutex_t mu = PTHREAD_MUTEX_INITIALIZER;
static struct slot *joined; // guarded by mu; those that the next step begins with
static int njoined, cjoined;

static struct slot *slots; // by channel
static int nslots;
static struct run *runs;
static int nruns;
static int *dirty;
static int ndirty;
static unsigned long long writes;

static void *must(void *p)
{
	if (p == NULL) {
		fprintf(stderr, "no memory\n");
		exit(1);
	}
	return p;
}

static long long now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_REALTIME, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

// Accepts clients, reads the head of each request and answers it.
static void *greet(void *arg)
{
	static const char answer[] =
		"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
	int ln = *(int *)arg;
	char head[16384];
	for (;;) {
		int fd = accept4(ln, NULL, NULL, SOCK_CLOEXEC);
		if (fd < 0) {
			if (errno == EINTR || errno == ECONNABORTED)
				continue;
			perror("accept");
			exit(1);
		}
		size_t have = 0;
		int whole = 0;
		while (!whole && have < sizeof head - 1) {
			ssize_t n = read(fd, head + have, sizeof head - 1 - have);
			if (n <= 0)
				break;
			have += n;
			head[have] = 0;
			whole = strstr(head, "\r\n\r\n") != NULL;
		}
		if (!whole || fcntl(fd, F_SETFL, O_NONBLOCK) < 0) {
			close(fd);
			continue;
		}
		int channel = 0;
		sscanf(head, "GET /events/c%d/", &channel);
		pthread_mutex_lock(&mu);
		if (njoined == cjoined) {
			cjoined = cjoined ? 2 * cjoined : 1024;
			joined = must(realloc(joined, cjoined * sizeof *joined));
		}
		joined[njoined++] = (struct slot){fd, channel, 0};
		pthread_mutex_unlock(&mu);
		// The client counts as connected when it has this, so it comes last.
		if (send(fd, answer, sizeof answer - 1, MSG_NOSIGNAL) < 0)
			continue; // the next send to it fails as well
	}
	return NULL;
}

static int by_channel(const void *a, const void *b)
{
	return ((const struct slot *)a)->channel - ((const struct slot *)b)->channel;
}

// Takes in who has joined, and forgets what was sent.
static void begin(int channels)
{
	pthread_mutex_lock(&mu);
	slots = must(realloc(slots, (nslots + njoined + 1) * sizeof *slots));
	memcpy(slots + nslots, joined, njoined * sizeof *slots);
	nslots += njoined;
	njoined = 0;
	pthread_mutex_unlock(&mu);
	qsort(slots, nslots, sizeof *slots, by_channel);
	if (nruns != channels) {
		for (int i = 0; i < nruns; i++)
			free(runs[i].bytes);
		free(runs);
		free(dirty);
		runs = must(calloc(channels, sizeof *runs));
		dirty = must(calloc(channels, sizeof *dirty));
		nruns = channels;
	}
	ndirty = 0;
	int at = 0;
	for (int i = 0; i < nruns; i++) {
		struct run *r = &runs[i];
		r->len = 0;
		r->dirty = 0;
		r->first = at;
		for (; at < nslots && slots[at].channel == i; at++)
			slots[at].sent = 0;
		r->last = at;
	}
}

static void drop(void)
{
	pthread_mutex_lock(&mu);
	for (int i = 0; i < nslots; i++)
		if (slots[i].fd >= 0)
			close(slots[i].fd);
	for (int i = 0; i < njoined; i++)
		close(joined[i].fd);
	nslots = njoined = 0;
	pthread_mutex_unlock(&mu);
}

// Sends to the clients of the dirty channels what they have not been sent, as
// far as their sockets have room. Channels with clients that are still behind
// stay dirty.
static void sweep(void)
{
	int still = 0;
	for (int d = 0; d < ndirty; d++) {
		struct run *r = &runs[dirty[d]];
		r->dirty = 0;
		for (int i = r->first; i < r->last; i++) {
			struct slot *s = &slots[i];
			if (s->sent == r->len || s->fd < 0)
				continue;
			ssize_t n = send(s->fd, r->bytes + s->sent, r->len - s->sent, MSG_NOSIGNAL);
			writes++;
			if (n >= 0)
				s->sent += n;
			else if (errno != EAGAIN && errno != EINTR) {
				close(s->fd);
				s->fd = -1;
				continue;
			}
			if (s->sent < r->len)
				r->dirty = 1;
		}
		if (r->dirty)
			dirty[still++] = dirty[d];
	}
	ndirty = still;
}

// When message i is to be sent, in ns after the start.
static long long due(const struct plan *p, long long i)
{
	if (p->rate == 0)
		return 0;
	long long last = i / p->beat * p->beat + p->beat;
	if (last > p->count)
		last = p->count;
	return (long long)((double)(last - 1) / p->rate * 1e9);
}

static void make(const struct plan *p, long long i)
{
	int channel = p->channels == 1 ? 0 : (int)(i / p->group % p->channels);
	struct run *r = &runs[channel];
	size_t most = p->size + 256;
	if (r->len + most > r->cap) {
		r->cap = 2 * (r->len + most);
		r->bytes = must(realloc(r->bytes, r->cap));
	}
	static const char front[] = "event: message\nid: " ID "\ndata: ";
	size_t event = sizeof front - 1 + p->size + 2;
	char *at = r->bytes + r->len;
	at += sprintf(at, "%zx\r\n%s", event, front);
	int n = sprintf(at, "%08llx %010llx ", p->first + i, due(p, i) / 1000);
	memset(at + n, 'x', p->size - n);
	at += p->size;
	memcpy(at, "\n\n\r\n", 4);
	r->len = at + 4 - r->bytes;
	if (!r->dirty) {
		r->dirty = 1;
		dirty[ndirty++] = channel;
	}
}

// Carries out a plan. Returns what went wrong, or NULL.
static const char *carry_out(const struct plan *p)
{
	begin(p->channels);
	for (long long next = 0; next < p->count;) {
		long long at = p->start + due(p, next);
		if (at > now()) {
			struct timespec t = {at / 1000000000, at % 1000000000};
			clock_nanosleep(CLOCK_REALTIME, TIMER_ABSTIME, &t, NULL);
			continue;
		}
		long long since = now() - p->start, from = next;
		do
			make(p, next++);
		while (next < p->count && next - from < AT_ONCE && due(p, next) <= since);
		sweep();
	}
	// What the sockets had no room for, as they make room.
	for (long long deadline = now() + 10000000000LL; ndirty > 0;) {
		if (now() > deadline)
			return "a client takes nothing";
		usleep(1000);
		sweep();
	}
	return NULL;
}

// The number behind a name in a line of JSON; 0 where there is none.
static const char *behind(const char *line, const char *name)
{
	char quoted[64];
	snprintf(quoted, sizeof quoted, "\"%s\":", name);
	const char *at = strstr(line, quoted);
	return at ? at + strlen(quoted) : "0";
}

static long long number(const char *line, const char *name)
{
	return strtoll(behind(line, name), NULL, 10);
}

static long long positive(long long n) { return n > 0 ? n : 1; }

int main(void)
{
	int ln = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct sockaddr_in addr = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof addr;
	if (ln < 0 || bind(ln, (struct sockaddr *)&addr, len) < 0 || listen(ln, 4096) < 0 ||
	    getsockname(ln, (struct sockaddr *)&addr, &len) < 0) {
		perror("listen");
		return 1;
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	printf("{\"addr\":\"127.0.0.1:%d\"}\n", ntohs(addr.sin_port));
	pthread_t t;
	if (pthread_create(&t, NULL, greet, &ln) != 0) {
		perror("thread");
		return 1;
	}
	char line[4096];
	while (fgets(line, sizeof line, stdin) != NULL) {
		struct plan p = {
			.first = number(line, "first"), .count = number(line, "count"),
			.beat = positive(number(line, "beat")), .channels = positive(number(line, "channels")),
			.group = positive(number(line, "group")), .size = number(line, "size"),
			.start = number(line, "startNs"), .rate = strtod(behind(line, "rate"), NULL),
		};
		const char *err = NULL;
		if (p.count == 0)
			drop();
		else
			err = carry_out(&p);
		if (err != NULL)
			printf("{\"err\":\"%s\",\"writes\":%llu}\n", err, writes);
		else
			printf("{\"writes\":%llu}\n", writes);
	}
	return 0;
}
