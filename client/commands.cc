#include "client/commands.h"

#include <array>
#include <string>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "client/error_text.h"
#include "client/json_output.h"
#include "client/progress_bar.h"
#include "core/base/status_macros.h"

namespace mnemosyne::client {
namespace {

std::string SummaryText(const QuerySummary& summary) {
  std::string text = absl::StrFormat(
      "%d prompt tokens, %d answer tokens, %s; first token after %.3f s (%.3f s of it waiting), all after %.3f s; "
      "knows "
      "%d tokens of the session, %d of them read before the prompt",
      summary.prompt_tokens, summary.answer_tokens, std::string(StopReasonName(summary.stop_reason)),
      absl::ToDoubleSeconds(summary.time_to_first_token), absl::ToDoubleSeconds(summary.queue_time),
      absl::ToDoubleSeconds(summary.total_time), summary.as_of_offset, summary.pending_tokens);
  if (summary.remembered_offset) absl::StrAppend(&text, "; remembered up to token ", *summary.remembered_offset);
  return text;
}

absl::Status RunModels(const CommandLine& line, Client* client, const Terminal& terminal) {
  ASSIGN_OR_RETURN(std::vector<ModelInfo> models, client->ListModels());
  for (const ModelInfo& model : models) {
    if (line.json) {
      terminal.out << ModelJson(model) << "\n";
      continue;
    }
    terminal.out << absl::StrFormat("%-24s %15s parameters  %s tokenizer of %d  blocks of %d tokens  %s a session\n",
                                    model.name, FormatCount(model.parameter_count),
                                    std::string(TokenizerName(model.tokenizer)), model.vocab_size, model.block_tokens,
                                    FormatBytes(model.state_bytes));
  }
  return absl::OkStatus();
}

// Asks once and prints the answer as it comes, without the space that it may begin with.
absl::Status Ask(const CommandLine& line, const std::string& question, Client* client, const Terminal& terminal) {
  QueryOptions options = line.query;
  options.deadline = absl::Now() + line.timeout;
  QueryDelta answer;
  absl::StatusOr<QuerySummary> summary =
      client->Query(line.arguments[0], question, options, [&](const QueryDelta& delta) {
        absl::string_view text = delta.text;
        if (answer.text.empty()) text = absl::StripLeadingAsciiWhitespace(text);
        absl::StrAppend(&answer.text, text);
        answer.token_ids.insert(answer.token_ids.end(), delta.token_ids.begin(), delta.token_ids.end());
        answer.log_probabilities.insert(answer.log_probabilities.end(), delta.log_probabilities.begin(),
                                        delta.log_probabilities.end());
        if (!line.json) terminal.out << text << std::flush;
      });
  if (!line.json && (summary.ok() || !answer.text.empty())) terminal.out << std::endl;
  RETURN_IF_ERROR(summary.status());
  if (line.json) terminal.out << AnswerJson(line.arguments[0], answer, *summary) << std::endl;
  if (line.verbose) terminal.err << SummaryText(*summary) << std::endl;
  return absl::OkStatus();
}

absl::Status Tell(const CommandLine& line, absl::string_view text, Client* client, Interrupt* interrupt) {
  StreamOptions options;
  options.model = line.model;
  options.take_over = line.take_over;
  ASSIGN_OR_RETURN(std::unique_ptr<StreamWriter> writer, client->OpenStream(line.arguments[0], options));
  interrupt->SetAction([&] { writer->Cancel(); });
  absl::Status status = writer->Append(absl::StrCat(text, "\n"));
  if (status.ok()) status = writer->Close();
  interrupt->SetAction([client] { client->Cancel(); });
  return status;
}

// The next line of the input, in `next`; false at the end. `pending` has what was read and not given out.
absl::StatusOr<bool> NextLine(const Terminal& terminal, Interrupt* interrupt, std::string* pending, std::string* next) {
  std::array<char, 4096> buffer;
  while (true) {
    if (size_t end = pending->find('\n'); end != std::string::npos) {
      *next = pending->substr(0, end);
      pending->erase(0, end + 1);
      return true;
    }
    ASSIGN_OR_RETURN(size_t size, interrupt->Read(terminal.input, absl::MakeSpan(buffer)));
    if (size == 0) {
      *next = std::exchange(*pending, "");
      return !next->empty();
    }
    pending->append(buffer.data(), size);
  }
}

absl::Status RunChat(const CommandLine& line, Client* client, Interrupt* interrupt, const Terminal& terminal) {
  if (terminal.prompts) terminal.out << "A line is asked. /tell TEXT streams the text to the session, /quit ends.\n";
  std::string pending, typed;
  while (true) {
    if (terminal.prompts) terminal.out << "> " << std::flush;
    absl::StatusOr<bool> more = NextLine(terminal, interrupt, &pending, &typed);
    if (terminal.prompts && (!more.ok() || !*more)) terminal.out << std::endl;
    RETURN_IF_ERROR(more.status());
    if (!*more) return absl::OkStatus();
    const absl::string_view text = absl::StripAsciiWhitespace(typed);
    absl::Status status;
    if (text.empty()) continue;
    if (text == "/quit") return absl::OkStatus();
    if (absl::string_view told = text; absl::ConsumePrefix(&told, "/tell ")) {
      status = Tell(line, told, client, interrupt);
    } else if (absl::StartsWith(text, "/")) {
      terminal.err << "mnemo: there are /tell TEXT and /quit" << std::endl;
    } else {
      status = Ask(line, std::string(text), client, terminal);
    }
    // A question that was refused is no reason to end the chat.
    if (absl::IsCancelled(status) || absl::IsUnavailable(status)) return status;
    if (!status.ok()) terminal.err << "mnemo: " << ErrorText(line, status) << std::endl;
  }
}

}  // namespace

absl::Status RunCommand(const CommandLine& line, Client* client, Interrupt* interrupt, const Terminal& terminal) {
  interrupt->SetAction([client] { client->Cancel(); });
  if (line.command == "stream") return RunStream(line, client, interrupt, terminal);
  if (line.command == "chat") return RunChat(line, client, interrupt, terminal);
  if (line.command == "models") return RunModels(line, client, terminal);
  if (line.command == "query") {
    return Ask(line, absl::StrJoin(line.arguments.begin() + 1, line.arguments.end(), " "), client, terminal);
  }
  if (line.command == "export" || line.command == "import" || line.command == "backup") {
    return RunTransfer(line, client, interrupt, terminal);
  }
  return RunSessionCommand(line, client, terminal);
}

}  // namespace mnemosyne::client
