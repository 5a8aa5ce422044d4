// What this browser keeps beside the SDK: drafts, comparisons of safety numbers, how it looks.
// Whoever can read the browser's files can read the SDK's too, so nothing is lost by this place.

const PREFIX = "mimimi.";

function read(key: string): string | null {
  try {
    return localStorage.getItem(PREFIX + key);
  } catch {
    return null;
  }
}

function write(key: string, value: string): void {
  try {
    if (value === "") localStorage.removeItem(PREFIX + key);
    else localStorage.setItem(PREFIX + key, value);
  } catch {
    // A full or forbidden storage costs a draft, not a message.
  }
}

export const draftOf = (group: string): string => read(`draft.${group}`) ?? "";
export const keepDraft = (group: string, text: string): void => write(`draft.${group}`, text);

/** Seconds after reading; 0 for ever. */
export const lifeOf = (group: string): number => Number(read(`life.${group}`) ?? 0) || 0;
export const keepLife = (group: string, seconds: number): void =>
  write(`life.${group}`, seconds === 0 ? "" : String(seconds));

/** The number that was compared: another one later is not verified. */
export const verifiedNumber = (user: string): string | null => read(`verified.${user}`);
export const keepVerified = (user: string, number: string | null): void =>
  write(`verified.${user}`, number ?? "");

export type Theme = "system" | "light" | "dark";
export function theme(): Theme {
  const kept = read("theme");
  return kept === "light" || kept === "dark" ? kept : "system";
}
export function keepTheme(chosen: Theme): void {
  write("theme", chosen === "system" ? "" : chosen);
  showTheme();
}
export function showTheme(): void {
  document.documentElement.dataset["theme"] = theme();
}

export type Reading = "even" | "live" | "batched";
export function reading(): Reading {
  const kept = read("reading");
  return kept === "live" || kept === "batched" ? kept : "even";
}
export const keepReading = (chosen: Reading): void =>
  write("reading", chosen === "even" ? "" : chosen);

/** Of a group that is forgotten. */
export function forget(group: string): void {
  keepDraft(group, "");
  keepLife(group, 0);
}

export function forgetAll(): void {
  for (const key of Object.keys(localStorage)) {
    if (key.startsWith(PREFIX)) localStorage.removeItem(key);
  }
}
