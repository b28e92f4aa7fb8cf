#include "dataplane/commands.h"

#include <algorithm>
#include <utility>

namespace sluice {
namespace {

// Others may be at the same session: it changes under our hands a few times at most.
constexpr int kAttempts = 16;

// Is what was found perhaps what a predecessor made of this very command?
bool may_be_own_trace(const CommandEntry& command, CommandResult result, uint64_t before) {
  if (command.kind == CommandKind::move)
    return result == CommandResult::other && unpack(before).backend == command.backend;
  return result == CommandResult::changed || result == CommandResult::absent ||
         result == CommandResult::other;
}

}  // namespace

void Commands::use(const std::byte* base) {
  if (base == nullptr || base == reinterpret_cast<const std::byte*>(commands_)) return;
  commands_ = reinterpret_cast<const CommandsSegment*>(base);
  const uint64_t incarnation = commands_->segment.incarnation;
  const uint64_t head = commands_->head.load(std::memory_order_acquire);
  next_ = done_.done.load(std::memory_order_relaxed);
  // Never more than the ring holds, or it is not this segment's count.
  const bool goes_on =
      done_.incarnation.load(std::memory_order_relaxed) == incarnation && head - next_ <= kCommandsMax;
  if (goes_on) {
    is_repeated_ = done_.begun.load(std::memory_order_relaxed) > next_;
    return;
  }
  is_repeated_ = false;
  next_ = head;
  // First nobody's, so that no reader takes the old count for the new segment's.
  done_.incarnation.store(0, std::memory_order_release);
  for (CommandsDone::Answer& answer : done_.answers)
    answer.result.store(CommandResult::none, std::memory_order_relaxed);
  done_.begun.store(next_, std::memory_order_relaxed);
  done_.done.store(next_, std::memory_order_release);
  // Release: the count is the new segment's. Pairs with sluiced's acquire.
  done_.incarnation.store(incarnation, std::memory_order_release);
}

void Commands::run(const TablesView& tables, uint64_t incarnation, uint32_t now_s) {
  if (commands_ == nullptr) return;
  // Pairs with sluiced's release: the entries before it are written.
  const uint64_t head = commands_->head.load(std::memory_order_acquire);
  if (head == next_) [[likely]]
    return;
  const uint64_t end = next_ + std::min<uint64_t>(head - next_, kCommandsAtOnce);
  for (; next_ != end; next_++) {
    const CommandEntry& command = commands_->entries[next_ % kCommandsMax];
    // The next loop has the tables that it is about.
    if (command.tables_incarnation == incarnation && command.generation > tables.generation().number) return;
    // seq_cst, as the change in the table is: a successor that finds that done finds this as well.
    done_.begun.store(next_ + 1, std::memory_order_seq_cst);
    Outcome outcome = perform(command, tables, incarnation, now_s);
    if (std::exchange(is_repeated_, false) && may_be_own_trace(command, outcome.result, outcome.before))
      outcome = {CommandResult::repeated};
    CommandsDone::Answer& answer = done_.answers[next_ % kCommandsMax];
    answer.before.store(outcome.before, std::memory_order_relaxed);
    answer.result.store(outcome.result, std::memory_order_relaxed);
    // Release: the answer is written.
    done_.done.store(next_ + 1, std::memory_order_release);
  }
}

Commands::Outcome Commands::perform(const CommandEntry& command, const TablesView& tables,
                                    uint64_t incarnation, uint32_t now_s) {
  if (command.tables_incarnation != incarnation) return {CommandResult::stale};
  switch (command.kind) {
    case CommandKind::pin:
    case CommandKind::import:
      return place(command, tables, now_s);
    case CommandKind::unpin:
      return unpin(command, tables, now_s);
    case CommandKind::move:
      return move(command, tables, now_s);
  }
  return {CommandResult::stale};
}

// Counted when the session is on another backend afterwards.
bool Commands::change(SessionTable::Found& found, const SessionValue& to) {
  const SessionValue before = found.session();
  if (!SessionTable::change(found, to)) return false;
  if (before.backend == to.backend) return true;
  stats_.sessions.moved.add(1);
  stats_.sessions_active[index(before.backend)].subtract(1);
  stats_.sessions_active[index(to.backend)].add(1);
  return true;
}

// pin, import
Commands::Outcome Commands::place(const CommandEntry& command, const TablesView& tables, uint32_t now_s) {
  if ((tables.backend(command.backend).flags & BackendRecord::kConfigured) == 0) return {CommandResult::gone};
  const bool is_import = command.kind == CommandKind::import;
  SessionValue wanted{command.backend, command.session, 0, command.last_s,
                      is_import ? command.created : now_s >> kCreatedShift};
  SessionTable::Found found = sessions_.find(command.hash);
  for (int attempt = 0; attempt < kAttempts; attempt++) {
    if (!found) {
      const SessionTable::Made made = sessions_.find_or_make(command.hash, wanted);
      if (made.made) {
        stats_.sessions.made.add(1);
        stats_.sessions.active.add(1);
        stats_.sessions_active[index(command.backend)].add(1);
        return {CommandResult::made};
      }
      if (!made.found) return {CommandResult::no_place};
      found = made.found;
    }
    const SessionValue before = found.session();
    const bool was_in_force = is_in_force(before, tables, now_s);
    if (is_import && was_in_force && (is_pinned(before.kind) || command.session == SessionKind::learnt)) {
      return {CommandResult::other, found.value};
    }
    const uint64_t value_before = was_in_force ? found.value : 0;
    if (was_in_force && !is_import) wanted.created = before.created;
    if (change(found, wanted)) {
      return {was_in_force ? CommandResult::changed : CommandResult::made, value_before};
    }
    if (!found) found = sessions_.find(command.hash);
  }
  return {CommandResult::no_place};
}

Commands::Outcome Commands::unpin(const CommandEntry& command, const TablesView& tables, uint32_t now_s) {
  SessionTable::Found found = sessions_.find(command.hash);
  for (int attempt = 0; found && attempt < kAttempts; attempt++) {
    const SessionValue before = found.session();
    const uint64_t value_before = found.value;
    if (!is_in_force(before, tables, now_s)) break;
    if (!is_pinned(before.kind)) return {CommandResult::other, value_before};
    // A connection that goes on before the next one begins keeps its client where it is (remake_session()).
    const bool may_stay = tables.service(tables.backend(before.backend).service).session_life_s == 0;
    if (may_stay) sessions_.moved.note(command.hash, now_s);
    if (sessions_.remove(command.hash, found)) {
      stats_.sessions.active.subtract(1);
      stats_.sessions.ended.add(1);
      stats_.sessions_active[index(before.backend)].subtract(1);
      return {CommandResult::removed, value_before};
    }
  }
  return {CommandResult::absent};
}

Commands::Outcome Commands::move(const CommandEntry& command, const TablesView& tables, uint32_t now_s) {
  if ((tables.backend(command.backend).flags & BackendRecord::kConfigured) == 0) return {CommandResult::gone};
  SessionTable::Found found = sessions_.find(command.hash);
  for (int attempt = 0; found && attempt < kAttempts; attempt++) {
    const uint64_t value_before = found.value;
    SessionValue session = found.session();
    if (!is_in_force(session, tables, now_s)) break;
    if (is_pinned(session.kind) || session.backend != command.from)
      return {CommandResult::other, value_before};
    session.backend = command.backend;
    session.kind = command.session;
    session.created = now_s >> kCreatedShift;
    sessions_.moved.note(command.hash, now_s);
    if (change(found, session)) return {CommandResult::changed, value_before};
  }
  return {CommandResult::absent};
}

}  // namespace sluice
