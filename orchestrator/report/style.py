"""How the report page looks: light or dark as the reader has it, from a phone's width up."""

CSS = """
:root{--font:system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans",sans-serif;--mono:ui-monospace,"DejaVu Sans Mono",
Menlo,Consolas,monospace;--paper:#fbfbfa;--card:#fff;--ink:#1d2024;--quiet:#5a616b;--line:#dcdfe3;--accent:#0a5ea8;
--warn:#8a4b00;--warnbg:#fff4e0;--mark:#ffd9c7;--shade:#0003;--c0:#0072b2;--c1:#d55e00;--c2:#008a66;--c3:#b0508a;--c4:#b07800;
--c5:#2b90c8;--c6:#6b7078;--c7:#8a8200;color-scheme:light dark}
@media (prefers-color-scheme:dark){:root{--paper:#15171a;--card:#1d2024;--ink:#e6e8eb;--quiet:#a3abb6;--line:#363b42;
--accent:#7fb8ee;--warn:#ffc46b;--warnbg:#33270f;--mark:#7a3413;--shade:#0009;
--c0:#56a8e0;--c1:#f08a45;--c2:#3cc79b;--c3:#e29cc7;
--c4:#f0b93c;--c5:#8fd0f5;--c6:#a8adb5;--c7:#f0e442}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.55 var(--font);overflow-wrap:anywhere}
header,main{max-width:72rem;margin:0 auto;padding:0 1.25rem}
header{padding-top:1.75rem}
h1{font-size:1.7rem;line-height:1.2;margin:0 0 .6rem;text-wrap:balance}
h2{font-size:1.35rem;margin:2.6rem 0 .8rem;padding-top:.9rem;border-top:2px solid var(--line)}
h3{font-size:1.1rem;margin:2rem 0 .6rem}
h4{font-size:.95rem;margin:0 0 .3rem}
main>section:first-child h2{margin-top:1.2rem}
nav ul{display:flex;flex-wrap:wrap;gap:.35rem 1.1rem;list-style:none;margin:0;padding:0}
a{color:var(--accent)}
a:focus-visible,[tabindex]:focus-visible,summary:focus-visible{outline:2px solid var(--accent);outline-offset:2px}
p{margin:.5rem 0;max-width:46rem}
.quiet,figcaption,caption{color:var(--quiet);font-size:.875rem}
.warning{max-width:none;background:var(--warnbg);border-left:4px solid var(--warn);border-radius:4px;
padding:.55rem .8rem}
.warning strong{color:var(--warn)}
.scroll{overflow-x:auto;width:fit-content;max-width:100%;margin:.8rem 0;border:1px solid var(--line);
border-radius:8px;
background:linear-gradient(to right,var(--card) 40%,transparent) left/2.5rem 100% no-repeat local,
linear-gradient(to left,var(--card) 40%,transparent) right/2.5rem 100% no-repeat local,
linear-gradient(to right,var(--shade),transparent) left/1rem 100% no-repeat scroll,
linear-gradient(to left,var(--shade),transparent) right/1rem 100% no-repeat scroll,var(--card)}
table{border-collapse:collapse;width:100%;font-size:.875rem;font-variant-numeric:tabular-nums;overflow-wrap:normal}
caption{caption-side:top;text-align:left;padding:.6rem .75rem .5rem}
caption span{display:block;position:sticky;left:.75rem;max-width:min(46rem,calc(100vw - 4.5rem))}
th,td{padding:.34rem .75rem;text-align:left;vertical-align:top;border-top:1px solid var(--line);font-weight:400;
max-width:30rem;overflow-wrap:break-word}
thead th{color:var(--quiet);white-space:nowrap;border-top:0;border-bottom:1px solid var(--line)}
tbody tr:first-child>*{border-top:0}
tbody th{font-weight:600}
td:not(.n){min-width:6rem}
.n{text-align:right;white-space:nowrap}
.figures{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,26rem),1fr));gap:1rem;margin:1rem 0}
figure{margin:0 0 1rem;padding:.8rem .9rem;background:var(--card);border:1px solid var(--line);border-radius:8px;
min-width:0;max-width:36rem}
.figures figure{margin:0}
figure svg{display:block;width:100%;height:auto;max-height:30rem}
figure.tall svg{max-height:none}
svg *{stroke-linejoin:round;stroke-linecap:butt}
details{margin:.8rem 0}
summary{cursor:pointer;color:var(--accent);font-size:.9rem}
pre{max-height:32rem;overflow:auto;margin:.5rem 0;padding:.8rem;background:var(--card);border:1px solid var(--line);
border-radius:8px;font:.78rem/1.45 var(--mono)}
.words{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,15rem),1fr));gap:.75rem;list-style:none;
margin:.6rem 0 1.6rem;padding:0}
.words li{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:.7rem;min-width:0}
.words img{display:block;height:48px;width:auto;max-width:100%;object-fit:contain;object-position:left;
border-radius:3px}
.words dl{display:grid;grid-template-columns:auto 1fr;gap:0 .6rem;margin:.5rem 0 .3rem;overflow-x:auto}
.words dt{color:var(--quiet);font-size:.8rem;line-height:1.5rem}
.words dd{margin:0;font:1rem/1.5rem var(--mono);white-space:pre}
.words p{margin:0;font-size:.8rem;line-height:1.4}
.plates{list-style:none;margin:.6rem 0 1.6rem;padding:0;display:grid;gap:.75rem;
grid-template-columns:repeat(auto-fill,minmax(min(100%,32rem),1fr))}
.plates li{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:.7rem;min-width:0}
.plates p{margin:0 0 .4rem}.plates b{font-family:var(--mono)}
.views{display:grid;grid-template-columns:repeat(4,1fr);gap:.6rem}
.views>div{min-width:0}.views>div>span{display:block;font-size:.8rem;line-height:1.5}
.views img{display:block;width:100%;height:auto;image-rendering:pixelated;border-radius:3px}
.wide.plates{grid-template-columns:1fr}.wide .views{grid-template-columns:1fr;gap:.35rem}
.wide .views img{width:auto;max-width:100%;border:1px solid var(--line);image-rendering:auto}
.views bdi{font-family:var(--mono);white-space:pre}.wide .views bdi{white-space:pre-wrap}
.right{color:var(--c2)}.tick{font-weight:700}
mark{background:var(--mark);color:inherit;border-radius:2px;font-weight:700}
mark.gap{border-bottom:2px solid var(--warn)}
@media (max-width:34rem){body{font-size:15px}header,main{padding-left:.8rem;padding-right:.8rem}h1{font-size:1.4rem}
th,td{padding:.3rem .55rem;max-width:16rem}.views{grid-template-columns:repeat(2,1fr)}
.wide .views{grid-template-columns:1fr}
figure{padding:.6rem .5rem}}
@media print{.scroll,pre{overflow:visible;max-height:none}figure,.words li,.plates li,
tr{break-inside:avoid}nav{display:none}}
"""
