#include "hub/home.h"

enum { WAIT_S_MAX = 300 };

bool hub_home_read(struct arena *arena, const struct outgoing_policy *policy, const char *endpoint,
                   struct hub_home *home, struct err *err)
{
    struct str text = str_of(endpoint);

    while (str_ends(text, STR("/")))
        text.len--;
    home->endpoint = str_copy(arena, text);
    if (!outgoing_url_parse(arena, text, &home->url, err))
        return err_prefix(err, "the Hub's address (HF_ENDPOINT)");
    return !policy || outgoing_find_rule(policy, &home->url, err);
}

/* ratelimit: "api";r=0;t=55 says so where Retry-After does not. */
int64_t hub_answer_wait_ms(const struct http_client_answer *answer)
{
    struct str limit = http_client_answer_header(answer, "ratelimit");
    ptrdiff_t at = str_find(limit, STR(";t="), 0), end;
    int64_t seconds = answer->retry_after_s;

    if (seconds == 0 && at >= 0) {
        end = str_find(limit, STR(";"), (size_t)at + 3);
        if (!str_to_i64(str_slice(limit, (size_t)at + 3, end < 0 ? limit.len : (size_t)end), &seconds))
            seconds = 0;
    }
    return seconds > 0 ? 1000 * (1 + (seconds < WAIT_S_MAX ? seconds : WAIT_S_MAX)) : 0;
}
