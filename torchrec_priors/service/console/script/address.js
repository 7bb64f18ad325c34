// The state of the page in its address, so that it can be reloaded, kept and sent to others.

function writeAddress(state, levers, k) {
  const parts = new URLSearchParams();
  if (state.user !== null) parts.set("user", state.user);
  for (const item of state.added) parts.append("item", item.item_id);
  for (const [prior, group] of Object.entries(state.groups)) parts.append("group", `${prior}=${group}`);
  if (k !== 10) parts.set("k", k);
  for (const [name, { boost, share, muted }] of levers.values) {
    if (boost) parts.append("boost", `${name}=${boost}`);
    if (share) parts.append("least", `${name}=${share}`);
    if (muted) parts.append("mute", name);
  }
  const hash = parts.toString();
  history.replaceState(null, "", hash ? `#${hash}` : location.pathname);
}

function readAddress() {
  const parts = new URLSearchParams(location.hash.slice(1));
  const pairs = (name) => parts.getAll(name).map((text) => {
    const at = text.lastIndexOf("=");
    return [text.slice(0, at), text.slice(at + 1)];
  });
  const levers = new Map();
  const set = (name, change) => levers.set(name, { ...(levers.get(name) ?? REST), ...change });
  const within = (text, low, high) => Math.min(high, Math.max(low, Number(text) || 0));
  for (const [name, value] of pairs("boost")) set(name, { boost: within(value, -OCTAVES, OCTAVES) });
  for (const [name, value] of pairs("least")) set(name, { share: within(value, 0, 1) });
  for (const name of parts.getAll("mute")) set(name, { muted: true });
  return {
    user: parts.get("user"), items: parts.getAll("item"), groups: Object.fromEntries(pairs("group")), k: parts.get("k"), levers,
  };
}
