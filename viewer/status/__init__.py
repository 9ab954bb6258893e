"""Where a run stands, as text: what `toolwise status` prints, and the view of `toolwise train` on a terminal."""
