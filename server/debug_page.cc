#include "server/debug_page.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "absl/time/clock.h"

namespace mnemosyne {
namespace {

constexpr int64_t kMaxSessions = 100;
constexpr double kWidth = 900, kHeight = 240, kLeft = 60, kBottom = 24, kTop = 8;

std::string Escaped(absl::string_view text) {
  return absl::StrReplaceAll(text, {{"&", "&amp;"}, {"<", "&lt;"}, {">", "&gt;"}, {"\"", "&quot;"}, {"'", "&#39;"}});
}

// For a link; ids have no other character that would need it.
std::string InUrl(absl::string_view id) { return Escaped(absl::StrReplaceAll(id, {{"/", "%2F"}})); }

std::string Page(absl::string_view title, absl::string_view body) {
  return absl::StrCat(
      "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>", Escaped(title),
      "</title><style>body{font:14px sans-serif;margin:2em;max-width:70em}table{border-collapse:collapse;margin:1em 0}"
      "td,th{border-bottom:1px solid #ccc;padding:.3em .8em;text-align:left}td.n{text-align:right;"
      "font-variant-numeric:tabular-nums}</style></head><body><h1>",
      Escaped(title), "</h1>\n", body, "</body></html>\n");
}

std::string Row(absl::string_view name, const std::string& value) {
  return absl::StrCat("<tr><th scope=\"row\">", Escaped(name), "</th><td class=\"n\">", Escaped(value), "</td></tr>\n");
}

std::string Number(int64_t value) { return absl::StrCat(value); }

double Mean(const Distribution::Counts& counts) {
  const int64_t total = counts.total();
  return total == 0 ? 0 : counts.sum / static_cast<double>(total);
}

// The surprise over the stream, as a line; tokens to the right, surprise upwards.
std::string SurpriseSvg(const std::vector<SurprisePoint>& points) {
  float most = 0;
  for (const SurprisePoint& point : points) most = std::max(most, std::isfinite(point.mean) ? point.mean : 0);
  if (most <= 0) most = 1;
  const auto first = static_cast<double>(points.front().end_offset);
  const double span = std::max(1.0, static_cast<double>(points.back().end_offset) - first);
  std::string line;
  for (const SurprisePoint& point : points) {
    const double x = kLeft + (static_cast<double>(point.end_offset) - first) / span * (kWidth - kLeft);
    const double y = kTop + (1 - point.mean / most) * (kHeight - kTop - kBottom);
    absl::StrAppendFormat(&line, "%.1f,%.1f ", x, y);
  }
  const double base = kHeight - kBottom;
  return absl::StrFormat(
      "<svg role=\"img\" aria-label=\"surprise over the stream\" width=\"%g\" height=\"%g\" viewBox=\"0 0 %g %g\">"
      "<path d=\"M%g %gV%gH%g\" fill=\"none\" stroke=\"#888\"/>"
      "<text x=\"0\" y=\"%g\" font-size=\"12\">%.4g</text><text x=\"0\" y=\"%g\" font-size=\"12\">0</text>"
      "<text x=\"%g\" y=\"%g\" font-size=\"12\">token %d</text>"
      "<text x=\"%g\" y=\"%g\" font-size=\"12\" text-anchor=\"end\">token %d</text>"
      "<polyline points=\"%s\" fill=\"none\" stroke=\"#1f77b4\" stroke-width=\"1.5\"/></svg>\n",
      kWidth, kHeight, kWidth, kHeight, kLeft, kTop, base, kWidth, kTop + 12, most, base, kLeft, kHeight - 6,
      points.front().end_offset, kWidth, kHeight - 6, points.back().end_offset, line);
}

}  // namespace

std::string DebugPage(const Engine& engine, int64_t calls) {
  const EngineStats s = engine.stats();
  std::string body = "<p><a href=\"/metrics\">metrics</a></p>\n<table><caption>Now</caption>\n";
  absl::StrAppend(&body, Row("calls under way", Number(calls)), Row("streams with a writer's seat", Number(s.writers)),
                  Row("sessions, of them in memory", absl::StrCat(s.sessions, ", ", s.resident_sessions)),
                  Row("bytes of states in memory, at most",
                      absl::StrCat(s.resident_bytes, ", ", engine.options().max_resident_bytes)),
                  Row("sessions that wait for a worker", Number(s.waiting_sessions)),
                  Row("the first of them since, seconds", absl::StrFormat("%.3f", s.oldest_wait_seconds)),
                  Row("workers that step a session", Number(s.running_sessions)),
                  Row("queries that wait, and run", absl::StrCat(s.waiting_queries, ", ", s.running_queries)),
                  Row("tokens accepted and not memorized", Number(s.lag_tokens)),
                  Row("disk", s.disk_failed ? "FAILED" : "takes writes"));
  absl::StrAppend(
      &body, "</table>\n<table><caption>Since the start</caption>\n",
      Row("tokens accepted, durable, memorized",
          absl::StrCat(s.tokens_accepted_total, ", ", s.tokens_durable_total, ", ", s.tokens_memorized_total)),
      Row("a group commit, mean milliseconds", absl::StrFormat("%.3f", 1e3 * Mean(s.commit))),
      Row("queries, of them failed", absl::StrCat(s.queries_total, ", ", s.failed_queries_total)),
      Row("evictions, reloads", absl::StrCat(s.evictions_total, ", ", s.reload.total())), "</table>\n");
  absl::StrAppend(&body,
                  "<table><caption>Models</caption>\n<tr><th>model</th><th>steps</th><th>mean milliseconds</th>"
                  "<th>mean surprise</th></tr>\n");
  for (const auto& [name, of_model] : s.models) {
    absl::StrAppendFormat(
        &body, "<tr><td>%s</td><td class=\"n\">%d</td><td class=\"n\">%.3f</td><td class=\"n\">%.4g</td></tr>\n",
        Escaped(name), of_model.step.total(), 1e3 * Mean(of_model.step), Mean(of_model.surprise));
  }
  absl::StrAppend(
      &body, "</table>\n<table id=\"sessions\"><caption>The ", kMaxSessions,
      " sessions in memory that were used last</caption>\n<tr><th>session</th><th>model</th><th>accepted</th>"
      "<th>durable</th><th>memorized</th><th>changed</th><th>failure</th></tr>\n");
  for (const SessionInfo& session : engine.ResidentSessions(kMaxSessions)) {
    const Watermarks& marks = session.watermarks;
    absl::StrAppend(&body, "<tr><td><a href=\"/debug/session?id=", InUrl(session.id), "\">", Escaped(session.id),
                    "</a></td><td>", Escaped(session.model), "</td><td class=\"n\">", marks.accepted,
                    "</td><td class=\"n\">", marks.durable, "</td><td class=\"n\">", marks.memorized, "</td><td>",
                    absl::FormatTime("%Y-%m-%d %H:%M:%S UTC", session.update_time, absl::UTCTimeZone()), "</td><td>",
                    Escaped(session.failure), "</td></tr>\n");
  }
  return Page("mnemosyned", absl::StrCat(body, "</table>\n"));
}

std::string SessionDebugPage(const Engine& engine, const std::string& id) {
  std::string body = "<p><a href=\"/debug\">all sessions</a></p>\n";
  const std::vector<SurprisePoint> points = engine.SurpriseOf(id);
  if (points.empty()) {
    absl::StrAppend(&body, "<p>This session is not in memory, or no block of it was stepped since it is.</p>\n");
  } else {
    absl::StrAppend(&body,
                    "<p>Surprise (|M(k) - v|<sup>2</sup>, mean over tokens, memory layers and heads) since the session "
                    "came into memory.</p>\n",
                    SurpriseSvg(points));
  }
  return Page(absl::StrCat("session ", id), body);
}

}  // namespace mnemosyne
