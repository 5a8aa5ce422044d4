const DAY_MS = 86_400_000;

const dayOf = (ms: number): number => new Date(ms).setHours(0, 0, 0, 0);

/** Time of day. */
export function clock(ms: number): string {
  return new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" }).format(ms);
}

/** The day of a message, as a heading. */
export function day(ms: number, nowMs: number): string {
  const days = Math.round((dayOf(nowMs) - dayOf(ms)) / DAY_MS);
  if (days === 0) return "Today";
  if (days === 1) return "Yesterday";
  const year = new Date(ms).getFullYear() === new Date(nowMs).getFullYear() ? {} : { year: "numeric" as const };
  return new Intl.DateTimeFormat("en-GB", { weekday: "long", day: "numeric", month: "long", ...year }).format(ms);
}

/** When, as short as a list has room for. */
export function short(ms: number, nowMs: number): string {
  const days = Math.round((dayOf(nowMs) - dayOf(ms)) / DAY_MS);
  if (days <= 0) return clock(ms);
  if (days === 1) return "Yesterday";
  const style = days < 7 ? { weekday: "short" as const } : { day: "numeric" as const, month: "short" as const };
  return new Intl.DateTimeFormat("en-GB", style).format(ms);
}

export function bytes(length: number): string {
  if (length < 1000) return `${length} B`;
  if (length < 1_000_000) return `${Math.round(length / 1000)} kB`;
  return `${(length / 1_000_000).toFixed(1)} MB`;
}
