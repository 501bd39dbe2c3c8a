"""Who led before: the terms (`terms`, pure), who writes them down (`writer`), and the stream."""
