/* track/tracker_int.h - what a tracker's files share: tracker.c decides which deliveries go and how they ended,
 * document.c writes what a sender gets to know (track/sending.h). */
#pragma once

#include "os/process.h"
#include "track/tracker.h"

#include <limits.h>

enum { EVENTS_MAX = 1000 }; /* of one delivery */

/* A delivery at work, and the child that does it. */
struct sender {
    struct tracker *tracker;
    struct sender *next;
    struct arena arena; /* of the delivery and its job */
    struct store_delivery delivery;
    struct store_job job;
    bool is_last, is_export;
    int64_t patience_ms; /* when that was noted last */
    struct process process;
    int out_fd;
    struct http_watch *watch;
    struct http_timer *timer;
    struct strbuf line;
    const char *end, *message; /* as it told them; NULL: not yet */
    int64_t wait_ms, again_ms;
};

struct tracker {
    struct tracker_config config;
    char program[PATH_MAX];
    struct arena arena;
    const char *log_path;
    struct http_timer *timer;
    struct sender *first;
    int count, export_count;
    const char *exports_dir;
};

struct tenant delivery_tenant(const struct store_delivery *delivery);
bool sender_is_webhook(const struct sender *sender);
/* What a Hub export knows of its parts outlives its sender, and goes with its end. */
const char *sender_parts_path(const struct sender *sender, struct arena *arena);
/* Reads the job and its events; sets is_last. The text holds secrets: whoever owns it erases it. */
bool sender_document_write(struct sender *sender, struct strbuf *text, struct err *err);
