"""Records -> statistics -> tables and figures. Data flows one way; no torch is ever imported here.

gather.py      run folders, or committed results, -> Study
statistics.py  values by seed -> mean, std, change from the parent
rows.py        Study, or the papers' numbers, -> one row per step of the ladder
caption.py     Study -> what a reader must know to judge its rows
tables.py      rows -> Markdown, CSV, LaTeX, terminal
figures.py     rows -> the ladder as .png and .svg
report.py      all of the above for `roadmap report`
"""
